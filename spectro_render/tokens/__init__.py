"""Notes -> token windows, which the note encoder reads, and the way back."""

from spectro_render.tokens.read import detokenize, window_notes
from spectro_render.tokens.vocabulary import EOS, PAD, UNK, TokenWindow, Vocabulary, WindowNote
from spectro_render.tokens.write import song_windows, sounding_seconds, tokenize

__all__ = [
    "EOS",
    "PAD",
    "UNK",
    "TokenWindow",
    "Vocabulary",
    "WindowNote",
    "detokenize",
    "song_windows",
    "sounding_seconds",
    "tokenize",
    "window_notes",
]
