"""Report stilted words in comments, docstrings, strings, test names, Markdown and TOML.

    python tools/check_prose.py              # everything below the current folder
    python tools/check_prose.py docs README.md

Prints `file:line: words -> suggestion` for each match. Exit code 1: something was found.
"""

import argparse
import fnmatch
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

# Pattern, suggestion. A space matches any white space, so a phrase is found across a line break too.
# Patterns with a capital letter are case-sensitive.
RULES = [
    (r"told apart|tells? apart|telling apart", "distinguish"),
    (r"told|tells?|telling", "log, warn, report, print, say"),
    (r"anew", "again; re-noised, retrained, ..."),
    (r"doors?", "method"),
    (r"(?:go|goes|going|went|gone) on(?! (?:a|an|the|to)\b)", "resume, continue"),
    (r"goes by", "uses, depends on"),
    (r"(?:cannot|can|could not|could|to|is to) be had", "is not available"),
    (r"c[ao]mes? to nothing", "fails, has no effect"),
    (r"lies?", "is, are"),
    (r"lacks?|lacked|lacking", "is missing, has no"),
    (r"mend|mends|mended|mending", "fix, repair"),
    (r"one's own", "your own, custom, local"),
    (r"whatever", "any X that, everything that"),
    (r"by what", "how, which"),
    (r"Of (?!course\b)[a-z]\w*(?: [\w-]+){0,4},", "start with the subject"),
    (r"of fewer", "reorder: 'if there are fewer'"),
    (r"made of", "from, of, consists of"),
    (r"in place of", "instead of"),
    (r"so many(?: \S+){0,6} at a time", "in batches of N"),
    (r"(?:that|which|what|who) (?:is|are|was|were) (?:already )?(?:there|here)", "existing, present"),
    (r"(?:until|up to) (?:here|there)", "name the place or the time"),
    (r"(?<!there )(?<!There )(?:is|are|was|were) no (?!longer|more|less|fewer|larger|smaller|better|worse|"
     r"greater|later|earlier|shorter|faster|slower|one)\w+", "is not a"),
    (r"kept features?", "cached features"),
    (r"looks? at (?:the|an|each|every) (?:image|picture)", "encoder pass"),
    (r"(?:images?|pictures?|scored) one at a time", "batch size 1"),
    (r"folded head|head is folded", "fused head"),
    (r"remember|remembers|remembered|remembering", "cache, store, record"),
    (r"(?:best|worst|share a|shares a) place", "rank"),
]  # fmt: skip

# File pattern, pattern of the line: matches on such lines are meant.
ALLOWED = [
    ("tools/check_prose.py", ".*"),
    ("tests/tools/test_check_prose.py", ".*"),
    ("*tests/data/*", ".*"),
]

SUFFIXES = {".py", ".md", ".toml"}
SKIPPED_FOLDERS = {"__pycache__", "build", "dist", "node_modules", "runs", "site", "venv"}
CODE = "\x00"  # stands for every character of code, so that no phrase spans it


def compile_rules(rules: list[tuple[str, str]]) -> list[tuple[re.Pattern, str]]:
    """Return each pattern as one that matches whole words in any case, across line breaks."""
    compiled = []
    for pattern, suggestion in rules:
        flags = 0 if re.search(r"(?<!\\)[A-Z]", pattern) else re.IGNORECASE
        # In a lookbehind the width is fixed; elsewhere a space is any run of white space.
        parts = re.split(r"(\(\?<![^)]*\))", pattern)
        flexible = "".join(
            p.replace(" ", r"\s") if p.startswith("(?<!") else p.replace(" ", r"\s+") for p in parts
        )
        compiled.append((re.compile(rf"(?<![\w-])(?:{flexible})(?![\w-])", flags), suggestion))
    return compiled


COMPILED_RULES = compile_rules(RULES)


def find_words(text: str, suffix: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line number, words, suggestion) for each stilted phrase of a file's text.

    Args:
        text: what the file contains.
        suffix: ".py", ".md" or ".toml".

    Raises:
        tokenize.TokenError, SyntaxError: a .py file is not Python.
    """
    prose = {".py": python_prose, ".md": markdown_prose}.get(suffix, str)(text)
    taken: set[int] = set()  # characters that an earlier, more specific rule reported
    matches = []
    for pattern, suggestion in COMPILED_RULES:
        for match in pattern.finditer(prose):
            if taken.isdisjoint(range(*match.span())):
                taken.update(range(*match.span()))
                words = re.sub(r"\s+", " ", match[0])
                matches.append((prose.count("\n", 0, match.start()) + 1, words, suggestion))
    yield from sorted(matches)


def python_prose(source: str) -> str:
    """Return the source with everything but comments, strings and test names replaced by CODE."""
    lines = source.splitlines(keepends=True)
    prose = [re.sub(r"\S", CODE, line) for line in lines]

    def show(token: tokenize.TokenInfo, text: str) -> None:
        (row, column), parts = token.start, text.split("\n")
        for i, part in enumerate(parts):
            start = column if i == 0 else 0
            line = prose[row - 1 + i]
            prose[row - 1 + i] = line[:start] + part + line[start + len(part) :]

    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "COMMENT":
            show(token, " " + token.string[1:])
        elif kind == "STRING":
            show(token, string_prose(token.string))
        elif kind in ("FSTRING_MIDDLE", "TSTRING_MIDDLE"):  # Python 3.12 and later
            show(token, token.string)
        elif kind in ("FSTRING_START", "FSTRING_END", "TSTRING_START", "TSTRING_END"):
            show(token, " " * len(token.string))
        elif kind == "NAME" and token.string.startswith("test_"):
            show(token, token.string.replace("_", " "))
    return "".join(prose)


def string_prose(literal: str) -> str:
    """Return a string literal with its prefix, quotes and f-string expressions hidden."""
    prefix = re.match(r"[A-Za-z]*", literal)[0]
    quotes = 3 if literal[len(prefix) :].startswith(('"""', "'''")) else 1
    text = literal[len(prefix) + quotes : -quotes]
    if "f" in prefix.lower():
        text = re.sub(r"\{[^{}]*\}", lambda match: re.sub(r"\S", CODE, match[0]), text)
    return " " * (len(prefix) + quotes) + text + " " * quotes


def markdown_prose(text: str) -> str:
    """Return Markdown with inline code, link targets and HTML tags replaced by CODE."""
    hidden = r"`[^`\n]+`|\]\([^)\n]*\)|<[^>\n]+>"
    return re.sub(hidden, lambda match: re.sub(r"\S", CODE, match[0]), text)


def files(paths: list[Path]) -> Iterator[Path]:
    """Yield the files to check: the given ones, and all below the given folders."""
    for path in paths:
        if not path.exists():
            raise SystemExit(f"Cannot check '{path}': no such file or folder.")
        if path.is_file():
            yield path
            continue
        for file in sorted(path.rglob("*")):
            folders = file.relative_to(path).parts[:-1]
            hidden = any(name in SKIPPED_FOLDERS or name.startswith(".") for name in folders)
            if file.suffix in SUFFIXES and file.is_file() and not hidden:
                yield file


def is_allowed(path: Path, line: str) -> bool:
    """Return whether the allow-list covers this line of this file."""
    name = path.as_posix()
    return any(fnmatch.fnmatch(name, f) and re.search(pattern, line) for f, pattern in ALLOWED)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="report stilted words in prose")
    parser.add_argument(
        "paths", nargs="*", type=Path, default=[Path()], help="files and folders (default: .)"
    )
    count = 0
    for path in files(parser.parse_args(arguments).paths):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        for number, words, suggestion in find_words(text, path.suffix):
            if not is_allowed(path, lines[number - 1]):
                count += 1
                print(f"{path}:{number}: {words} -> {suggestion}")
    if count:
        print(f"{count} stilted words. Rewrite the sentence, or add a line to ALLOWED.", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
