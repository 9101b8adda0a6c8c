"""Training of the Transformer and of the vocoder: data, objectives, optimisers and loops."""
