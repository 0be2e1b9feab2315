"""TensorBoard and Weights & Biases as observers of SIA's runs."""
