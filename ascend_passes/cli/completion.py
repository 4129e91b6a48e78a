"""`completion bash|zsh`: print a script that completes commands, arguments, options and rules.

The script knows all words itself, so that a press of the tab key starts no Python.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields

from ascend_passes.cli.arguments import path_name
from ascend_passes.cli.rules import every_named
from ascend_passes.cli.waiting import settled
from ascend_passes.options.value import Options

EXAMPLES = (
    'eval "$(ascend-passes completion bash)"',
    "ascend-passes completion zsh >> ~/.zshrc",
)
SHELLS = ("bash", "zsh")
FILES = "@files"
"""In place of words: any file."""
Words = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Command, `bench compile` with a space -> argument -> what may follow it; "" is the command's own
place. A flag without a value has nothing."""
ZSH = "autoload -U +X compinit && compinit -u\nautoload -U +X bashcompinit && bashcompinit\n"
SCRIPT = """\
_ascend_passes() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" last="${{COMP_WORDS[COMP_CWORD-1]}}" command="" key
    local index=1 inner=({inner})
    while (( index < COMP_CWORD )); do
        key="${{COMP_WORDS[index]}}"
        [[ "$key" == -* ]] || {{ command="$key"; break; }}
        (( index++ ))
    done
    if [[ " ${{inner[*]}} " == *" $command "* ]] && (( index + 1 < COMP_CWORD )); then
        command="$command ${{COMP_WORDS[index+1]}}"
    fi
    case "$command|$last" in
{cases}
    esac
    case "$command" in
{commands}
        *) _ascend_passes_words "$word" {top} ;;
    esac
}}
_ascend_passes_words() {{
    local word="$1" one
    shift
    COMPREPLY=()
    for one in "$@"; do
        if [[ "$one" == {files} && "$word" == -* ]]; then
            continue
        elif [[ "$one" == {files} ]]; then
            while IFS= read -r one; do
                [[ "$one" == "$word"* ]] && COMPREPLY+=( "$one" )
            done < <(compgen -f "$word")
            compopt -o filenames 2>/dev/null
        elif [[ "$one" == "$word"* ]]; then
            COMPREPLY+=( "$one" )
        fi
    done
    [[ "${{COMPREPLY[0]}}" == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}}
if [[ -n "${{ZSH_VERSION-}}" ]]; then
    complete -o filenames -F _ascend_passes ascend-passes
else  # where files are proposed alone, or bash would escape the = of options
    complete -F _ascend_passes ascend-passes
fi
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `completion`."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")


def run(arguments: argparse.Namespace) -> int:
    """0, with the script on stdout."""
    text = script(dict(words_of(arguments.every_command())))
    settled()
    print((ZSH if arguments.shell == "zsh" else "") + text, end="")
    return 0


def words_of(
    parser: argparse.ArgumentParser, name: str = ""
) -> Iterator[tuple[str, Mapping[str, tuple[str, ...]]]]:
    """What a parser and those below it take, by command."""
    taken: dict[str, tuple[str, ...]] = {"": ()}
    below: list[tuple[str, argparse.ArgumentParser]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            below += [(f"{name} {one}".strip(), inner) for one, inner in action.choices.items()]
            taken[""] += tuple(action.choices)
        elif action.option_strings:
            follows = () if action.nargs == 0 else possible_values(action)
            taken |= dict.fromkeys(action.option_strings, follows)
        else:
            taken[""] += possible_values(action)
    yield name, taken
    for one, inner in below:
        yield from words_of(inner, one)


def possible_values(action: argparse.Action) -> tuple[str, ...]:
    """What an argument may be."""
    if action.choices is not None:
        return tuple(map(str, action.choices))
    if action.dest == "option":
        return tuple(f"{field.name}=" for field in fields(Options))
    rules = tuple(one.name for one in every_named(Options())) if action.dest == "rule" else ()
    takes_files = action.type is path_name or action.dest in ("model", "rule", "profile")
    return (*rules, *((FILES,) if takes_files else ()))


def script(words: Words) -> str:
    """The script for these words."""
    cases, commands = [], []
    for command, taken in words.items():
        for argument, values in taken.items():
            if argument and values:
                pattern = shlex.quote(f"{command}|{argument}")
                call = f'_ascend_passes_words "$word" {quoted_words(values)}'
                cases.append(f"        {pattern}) {call}; return ;;")
        if command:
            every = (*taken[""], *(one for one in taken if one))
            call = f'_ascend_passes_words "$word" {quoted_words(every)}'
            commands.append(f"        {shlex.quote(command)}) {call} ;;")
    top = (*words[""][""], *(one for one in words[""] if one))
    inner = dict.fromkeys(name.partition(" ")[0] for name in words if " " in name)
    return SCRIPT.format(
        inner=" ".join(inner),
        cases="\n".join(cases),
        commands="\n".join(commands),
        top=quoted_words(top),
        files=FILES,
    )


def quoted_words(values: tuple[str, ...]) -> str:
    """Words as a shell reads them."""
    return " ".join(map(shlex.quote, values))
