"""Records in the nested JSON of published corpora, AI-Hub's among them.

Known forms of a file: a list of objects; such a list under a name (`{"data": [...]}`, as in AI-Hub 71487, medical and
legal books), one or two levels deep (`{"SJML": {"text": [...]}}`); and a single object (AI-Hub 71875, medical
knowledge: `{"c_id", "domain", "source", "source_spec", "creation_year", "content"}` and `{"qa_id", "question",
"answer"}`; AI-Hub 71762, health care: `{"disease_name": {"kor", "eng"}, "intention", "answer": {"intro", "body",
"conclusion"}}`).
"""

from collections.abc import Mapping

CONTAINERS = ("data", "documents", "document", "records", "items", "SJML", "text", "named_entity")
_DEPTH = 3
_PARTS = ("intro", "body", "conclusion")
_PIECES = ("sentence", "form", "text", "content")


def records_of(content: object, depth: int = _DEPTH) -> list[object] | None:
    """The records of a parsed file; None where it has none."""
    if isinstance(content, list):
        return content
    if not isinstance(content, Mapping):
        return None
    for name in CONTAINERS if depth else ():
        inner = content.get(name)
        if isinstance(inner, list) and (name == "data" or any(isinstance(item, Mapping) for item in inner)):
            if name == "text" and depth == _DEPTH:
                continue  # a record whose text is in pieces
            return inner
        if isinstance(inner, Mapping) and (found := records_of(inner, depth - 1)) and found != [inner]:
            return found
    return [content] if any(isinstance(value, str) for value in content.values()) else None


def joined(value: object, depth: int = _DEPTH) -> object:
    """A text in pieces as one text: a list of objects (`{"sentence": …}`, `{"form": …}`) with a piece per line, or
    `{"intro", "body", "conclusion"}`. Everything else unchanged."""
    if isinstance(value, list) and value and depth and all(isinstance(item, Mapping) for item in value):
        pieces = [joined(item, depth - 1) for item in value]
        return "\n".join(map(str, pieces)) if all(isinstance(piece, str) for piece in pieces) else value
    if isinstance(value, Mapping):
        if parts := [str(value[name]).strip() for name in _PARTS if isinstance(value.get(name), str)]:
            return "\n".join(part for part in parts if part)
        return next((value[name] for name in _PIECES if isinstance(value.get(name), str)), value)
    return value
