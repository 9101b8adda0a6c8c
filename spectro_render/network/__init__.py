"""The Transformer that draws mels from notes: encoders, and decoders of two kinds."""
