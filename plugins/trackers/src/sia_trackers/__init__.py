"""TensorBoard, Weights & Biases and Trackio as observers of SIA's runs."""
