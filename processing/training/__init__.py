"""Train our own small models on plates that the project draws itself."""
