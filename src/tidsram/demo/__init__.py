"""The example decisions on real models and data, told as a story."""
