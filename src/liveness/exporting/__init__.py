"""From an ensemble's weights to a folder that needs no torch: ONNX files, int8, the parity gate, the card."""
