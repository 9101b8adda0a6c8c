"""What a terminal shows after a program has written to it: enough of one for bars and messages."""

import re

_PART = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)|(.)", re.DOTALL)


def screen(written: str, columns: int) -> list[str]:
    """The lines on a screen of this width, without empty ones at the end."""
    lines: list[list[str]] = [[]]
    row = column = 0
    for numbers, command, control, text, odd in _PART.findall(written):
        assert not odd, repr(odd)
        count = int(numbers) if numbers.isdigit() else 1
        if control == "\r":
            column = 0
        elif control == "\n":
            row += 1
        elif command == "A":
            row = max(0, row - count)
        elif command == "B":
            row += count
        elif command == "K":
            assert numbers == "2", numbers
            lines[row] = []
        for character in text:
            if column == columns:  # only a character beyond the last column moves to the next line
                row, column = row + 1, 0
            lines += [[] for _ in range(row + 1 - len(lines))]
            line = lines[row]
            line += " " * (column + 1 - len(line))
            line[column] = character
            column += 1
        lines += [[] for _ in range(row + 1 - len(lines))]
    shown = ["".join(line).rstrip() for line in lines]
    while shown and not shown[-1]:
        shown.pop()
    return shown
