"""The instruments of General MIDI by name and number."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from spectro_render.errors import OptionError

# The sound set of General MIDI 1 (RP-003), a family of eight after the other.
INSTRUMENTS = tuple(
    " ".join(
        """
    Acoustic Grand Piano, Bright Acoustic Piano, Electric Grand Piano, Honky-tonk Piano,
        Electric Piano 1, Electric Piano 2, Harpsichord, Clavinet,
    Celesta, Glockenspiel, Music Box, Vibraphone, Marimba, Xylophone, Tubular Bells, Dulcimer,
    Drawbar Organ, Percussive Organ, Rock Organ, Church Organ, Reed Organ, Accordion, Harmonica,
        Tango Accordion,
    Acoustic Guitar (nylon), Acoustic Guitar (steel), Electric Guitar (jazz), Electric Guitar
        (clean), Electric Guitar (muted), Overdriven Guitar, Distortion Guitar, Guitar
        Harmonics,
    Acoustic Bass, Electric Bass (finger), Electric Bass (pick), Fretless Bass, Slap Bass 1,
        Slap Bass 2, Synth Bass 1, Synth Bass 2,
    Violin, Viola, Cello, Contrabass, Tremolo Strings, Pizzicato Strings, Orchestral Harp,
        Timpani,
    String Ensemble 1, String Ensemble 2, Synth Strings 1, Synth Strings 2, Choir Aahs, Voice
        Oohs, Synth Choir, Orchestra Hit,
    Trumpet, Trombone, Tuba, Muted Trumpet, French Horn, Brass Section, Synth Brass 1, Synth
        Brass 2,
    Soprano Sax, Alto Sax, Tenor Sax, Baritone Sax, Oboe, English Horn, Bassoon, Clarinet,
    Piccolo, Flute, Recorder, Pan Flute, Blown Bottle, Shakuhachi, Whistle, Ocarina,
    Lead 1 (square), Lead 2 (sawtooth), Lead 3 (calliope), Lead 4 (chiff), Lead 5 (charang),
        Lead 6 (voice), Lead 7 (fifths), Lead 8 (bass + lead),
    Pad 1 (new age), Pad 2 (warm), Pad 3 (polysynth), Pad 4 (choir), Pad 5 (bowed), Pad 6
        (metallic), Pad 7 (halo), Pad 8 (sweep),
    FX 1 (rain), FX 2 (soundtrack), FX 3 (crystal), FX 4 (atmosphere), FX 5 (brightness), FX 6
        (goblins), FX 7 (echoes), FX 8 (sci-fi),
    Sitar, Banjo, Shamisen, Koto, Kalimba, Bagpipe, Fiddle, Shanai,
    Tinkle Bell, Agogo, Steel Drums, Woodblock, Taiko Drum, Melodic Tom, Synth Drum, Reverse
        Cymbal,
    Guitar Fret Noise, Breath Noise, Seashore, Bird Tweet, Telephone Ring, Helicopter, Applause,
        Gunshot
    """.split()
    ).split(", ")
)
DRUMS = -1  # in place of a program
_DRUM_NAMES = ("drums", "drum kit", "percussion")
MOST_NAMED = 6  # names in a message


def instrument_name(program: int, is_drum: bool = False) -> str:
    """The name of General MIDI program 0..127, or `Drums`."""
    return "Drums" if is_drum else INSTRUMENTS[program]


def find_instrument(name: str | int) -> int:
    """The program 0..127 of an instrument, or DRUMS.

    `name` is a General MIDI name, a part of one that no other name has, or a number 1..128 as
    General MIDI counts. Case and punctuation do not matter. Raises OptionError for others.
    """
    text = str(name).strip()
    if re.fullmatch(r"[+-]?\d{1,9}", text):
        if not 1 <= int(text) <= len(INSTRUMENTS):
            raise OptionError(
                f"there is no instrument {text}",
                "count from 1 (Acoustic Grand Piano) to 128 (Gunshot)",
            )
        return int(text) - 1
    wanted = plain(text)
    known = {plain(instrument): program for program, instrument in enumerate(INSTRUMENTS)}
    known |= dict.fromkeys(_DRUM_NAMES, DRUMS)
    if wanted in known:
        return known[wanted]
    found = [program for each, program in known.items() if wanted and wanted in each]
    if len(set(found)) == 1:
        return found[0]
    if found:
        names = [f"{instrument_name(each)} ({each + 1})" for each in found if each != DRUMS]
        raise OptionError(f"{name!r} may be {one_of(names)}", "give the whole name or the number")
    raise OptionError(
        f"no instrument of General MIDI is called {name!r}",
        did_you_mean(wanted, (*INSTRUMENTS, *_DRUM_NAMES))
        or "give a name such as 'violin', or a number from 1 to 128",
    )


def find_program(name: str | int) -> int:
    """The program 0..127 of an instrument that plays pitches; names are those of `find_instrument`.

    Raises OptionError for others, and for drums.
    """
    program = find_instrument(name)
    if program == DRUMS:
        message = "drums cannot have another timbre, as each of them is a sound of its own"
        raise OptionError(message, "name an instrument that plays pitches")
    return program


def plain(name: str) -> str:
    """A name in lower case, with single spaces in place of punctuation."""
    return " ".join(re.findall(r"\w+", name.casefold()))


def one_of(names: Iterable[str]) -> str:
    """The first names in words: `A, B or C`."""
    names = list(names)
    if len(names) > MOST_NAMED:
        return f"{', '.join(names[:MOST_NAMED])} or {len(names) - MOST_NAMED} others"
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question for the known word that is most like `word`; empty where none is like it."""
    plains = {plain(each): each for each in known}
    alike = get_close_matches(plain(word), list(plains), 1)
    return "".join(f"did you mean {plains[each]!r}?" for each in alike)
