"""Token windows: the ids that the paper's note encoder reads, made from notes, and read back.

A window covers 5.12 s. Its ids are the notes held from earlier windows (program and pitch of each:
the tie section), the `tie` mark, then every onset, offset and drum hit in time order, and EOS:

    program pitch ... tie | shift program velocity pitch ... shift velocity drum ... | EOS

`shift` carries the 10 ms step counted from the window's start; a program or velocity equal to the
one in force is left out; velocity 0 is an offset; drum hits have no offset.

`Vocabulary()` is that of the published checkpoints, and its windows are written exactly as those
that they were trained on:
- events are sorted by their time in seconds, so within one step an onset may precede an offset;
- the first offset of a pitch ends every note of that program class and pitch;
- windows that begin after the last event repeat the notes held before the events of its step.

Every other vocabulary gets tidied notes instead, which `window_notes` reads back unambiguously:
- times lie on the 10 ms grid, and a note lasts at least one step;
- notes of one program and pitch never overlap: a second onset strikes the pitch anew and it
  sounds until the latest end; onsets in the same step are one note, the loudest, with the latest
  end;
- within a step all offsets precede all onsets, and an offset on the edge of two windows belongs
  to the first, so the tie section names exactly the notes that sound at the window's first frame;
- with more than one velocity bin, the tie section also carries the velocity of each held note.

A window that would exceed 2048 ids drops notes, each one whole: onset, offset and ties. Notes that
began in earlier windows stay, then the loudest, then the longest; equals are thinned evenly.
"""

from spectro_render.midi.length import sounding_seconds
from spectro_render.tokens.read import detokenize, window_notes
from spectro_render.tokens.vocabulary import EOS, PAD, UNK, TokenWindow, Vocabulary, WindowNote
from spectro_render.tokens.write import (
    TokenWindows,
    song_windows,
    tokenize,
)

__all__ = [
    "EOS",
    "PAD",
    "UNK",
    "TokenWindow",
    "TokenWindows",
    "Vocabulary",
    "WindowNote",
    "detokenize",
    "song_windows",
    "sounding_seconds",
    "tokenize",
    "window_notes",
]
