"""The command line: one file per command; `mmrec --help` is the map."""

from __future__ import annotations

import sys

from cyclopts import App
from rich.console import Console
from rich.markup import escape

import mmrec
from mmrec.errors import MmrecError

__all__ = ["app", "main"]

app = App(
    name="mmrec",
    help="Recommendations that people can trust, from what reviews and photos say.",
    version=mmrec.__version__,
    suppress_keyboard_interrupt=False,
)
# The helps stand here too, so that `mmrec --help` imports none of the commands.
app.command("mmrec.cli.demo:demo", help="Try everything on a town that is made up.")
app.command("mmrec.cli.fit:fit", help="Learn from reviews; save a model and a report.")
app.command(
    "mmrec.cli.annotate:profile", help="Have reviews read by a language model, at a known price."
)
app.command("mmrec.cli.evaluate:evaluate", help="How good a saved model is.")
app.command(
    "mmrec.cli.reproduce:reproduce", help="The paper's experiment, in its way and honestly."
)
app.command("mmrec.cli.ablate:ablate", help="What each group of inputs adds.")
app.command("mmrec.cli.sweep:sweep", help="One setting over a range of values.")
app.command(
    "mmrec.cli.recommend:recommend", help="Recommend items to a user, or to a stranger's words."
)
app.command("mmrec.cli.serve:serve", help="Serve a saved model: a web page and an API.")
app.command("mmrec.cli.doctor:doctor", help="What this machine can run, and what is missing.")
app.command(
    "mmrec.cli.store:store_app", name="store", help="What was asked, read and computed so far."
)
_photos = App(name="photos", help="Photos that the data only links to.")
_photos.command("mmrec.cli.photos:fetch", help="Bring photos from the web, safely.")
app.command(_photos)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; an error that the user can mend is told in a sentence, and the exit status is 2."""
    words = _spread_mappings(sys.argv[1:] if arguments is None else arguments)
    try:
        app(words)
    except MmrecError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"[bold red]mmrec:[/] {escape(str(error))}")
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            "\nstopped; what was answered or computed is kept: the same command goes on there",
            file=sys.stderr,
        )
        sys.exit(130)


def _spread_mappings(words: list[str]) -> list[str]:
    """`--map rating=stars` in the form that the parser takes: `--map.rating stars`."""
    out: list[str] = []
    for word in words:
        if out and out[-1] == "--map" and "=" in word:
            key, value = word.split("=", 1)
            out[-1:] = [f"--map.{key}", value]
        elif word.startswith("--map=") and word.count("=") == 2:
            _, key, value = word.split("=")
            out += [f"--map.{key}", value]
        else:
            out.append(word)
    return out
