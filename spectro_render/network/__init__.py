"""The Transformer that draws mels from notes: encoders, and a decoder of either kind."""
