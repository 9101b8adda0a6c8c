"""The Transformer: notes, the mel before and a noisy mel -> a prediction about the mel."""
