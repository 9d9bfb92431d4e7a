"""What others get of a model: its card, its repository on a hub, an ONNX file."""
