"""LawBench for SIA: name the criminal charge of a Chinese court case, out of 191."""
