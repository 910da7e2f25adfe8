"""Tables of figures: as Markdown, and between their markers in the documents."""

import datetime
import os
import pathlib
import platform

DOCS = pathlib.Path(__file__).resolve().parent.parent.parent / "docs"


def markdown(header, rows):
    line = lambda cells: "| " + " | ".join(str(c) for c in cells) + " |"
    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def put(file, marker, title, what, table):
    """Puts a table between its markers in a file of docs, behind the others if it is new. `what` goes behind date and machine."""
    path = DOCS / file
    text = path.read_text()
    begin, end = f"<!-- {marker} -->", f"<!-- end {marker} -->"
    date = datetime.date.today().isoformat()
    block = f"{begin}\n### {title}\n\n{date}, {processor()}, {os.cpu_count()} cores, {what}.\n\n{table}\n{end}"
    if begin in text:
        text = text[: text.index(begin)] + block + text[text.index(end) + len(end):]
    else:
        text = text.rstrip() + "\n\n" + block + "\n"
    path.write_text(text)
