"""The task ``trimul``: a fast kernel for the triangle multiplicative update."""
