"""`crosstalk completion SHELL`: the line for a shell's start-up file, and the words that it then asks for.

Hydra's own completion knows programs of one configuration, started anew with all they import for each Tab; here there
are verbs, and an answer takes a tenth of a second.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from engine.configs import brought, choices, defaults, groups, verbs
from engine.errors import Shown, UserError
from engine.verbs import VERBS

HELP = """\
crosstalk completion SHELL    (bash, zsh or fish)

# Tab completes verbs, settings, the names of data sets, backbones and the like, and paths. For this session, or as a
# line in the shell's start-up file:
#
#   eval "$(crosstalk completion bash)"          ~/.bashrc
#   eval "$(crosstalk completion zsh)"           ~/.zshrc, after compinit
#   crosstalk completion fish | source           ~/.config/fish/config.fish
"""

# Each asks `crosstalk completion words` for what the words up to the cursor could become, one a line; where nothing
# comes back, for the names of files.
SCRIPTS = {
    "bash": r"""
_crosstalk() {
    local line=${COMP_LINE:0:COMP_POINT} typed
    read -ra typed <<< "$line"
    [[ $line == *[[:space:]] ]] && typed+=("")
    mapfile -t COMPREPLY < <("$1" completion words "${typed[@]:1}" 2> /dev/null)
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    # Bash takes what follows "=" for a word of its own.
    [[ ${typed[-1]} == *=* && $COMP_WORDBREAKS == *=* ]] && COMPREPLY=("${COMPREPLY[@]#*=}")
}
complete -o default -F _crosstalk crosstalk
""",
    "zsh": r"""
_crosstalk() {
    local -a found
    found=(${(f)"$($words[1] completion words "${(@)words[2,CURRENT-1]}" "$PREFIX" 2> /dev/null)"})
    if (( ! $#found )); then
        compset -P '*='
        _files
    elif [[ $found[1] == *= ]]; then
        compadd -S '' -a found
    else
        compadd -a found
    fi
}
compdef _crosstalk crosstalk
""",
    "fish": r"""
function __crosstalk_words
    set -l typed (commandline -opc)
    set -l program $typed[1]
    set -e typed[1]
    $program completion words $typed (commandline -ct) 2> /dev/null
end
complete -c crosstalk -a '(__crosstalk_words)'
""",
}


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        raise Shown(HELP.rstrip())
    shell, *typed = arguments
    if shell == "words":
        print("".join(f"{word}\n" for word in words(typed)), end="")  # an empty line would be a word, too
        return 0
    if shell not in SCRIPTS or typed:
        raise UserError(f"{' '.join(arguments)}: expected one shell, of {', '.join(SCRIPTS)}")
    print(SCRIPTS[shell].strip())
    return 0


def words(typed: Sequence[str]) -> list[str]:
    """What the last word could become; nothing where only a path could follow."""
    *before, current = typed or [""]
    if before and "=" in current:
        found = _values(before, current.partition("=")[0])
    else:
        found = _names(before, current.startswith("-"))
    return [word for word in found if word.startswith(current)]


def _names(before: Sequence[str], option: bool) -> list[str]:
    if not before:
        return ["--help", "--version"] if option else list(VERBS)
    verb, *rest = before
    if verb == "completion":
        return [] if rest else list(SCRIPTS)
    if verb == "detect":
        return _flags() if option else []
    if verb not in verbs():
        return []
    if option:
        return ["--help", "--cfg", "--check", *(["--dry-run"] if verb == "submit" else [])]
    given = {word.partition("=")[0] for word in rest}
    keys = [f"{key}=" for one in _settings_of(before) for key in _keys(one, rest) if key not in given]
    if verb == "submit" and len(_settings_of(before)) == 1:
        return [other for other in verbs() if other not in ("submit", "jobs")] + keys
    return (["cancel"] if verb == "jobs" and not rest else []) + keys


def _settings_of(before: Sequence[str]) -> list[str]:
    """The verbs whose settings may stand here: of a submitted verb submit's, too."""
    verb, *rest = before
    return [verb, *[word for word in rest if word in verbs()][:1]] if verb == "submit" else [verb]


def _keys(verb: str, given: Sequence[str]) -> list[str]:
    """The verb's, and those that a choice on the line has brought: the options of a data set."""
    own = dict.fromkeys([*groups(verb), *defaults(verb)])
    for group in groups(verb):
        for name in choices(group):
            if f"{group}={name}" in given:
                own |= dict.fromkeys(brought(group, name))
    return list(own)


def _values(before: Sequence[str], key: str) -> list[str]:
    for verb in [verb for verb in _settings_of(before) if verb in verbs()]:
        if key in groups(verb):
            return [f"{key}={name}" for name in choices(key)]
        if isinstance(defaults(verb).get(key), bool):
            return [f"{key}=true", f"{key}=false"]
    return []


def _flags() -> list[str]:
    """detect's, read from its source: importing it would import PyTorch."""
    source = importlib.util.find_spec("evaluation.verdict.flags")
    tree = ast.parse(Path(source.origin).read_text()) if source and source.origin else ast.Module([], [])
    called = [node.args for node in ast.walk(tree) if isinstance(node, ast.Call)]
    constants = [arguments[0].value for arguments in called if arguments and isinstance(arguments[0], ast.Constant)]
    return ["--help", *[word for word in constants if isinstance(word, str) and re.fullmatch(r"--[\w-]+", word)]]
