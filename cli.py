"""`ecdctr`: one command, one sub-command a process.

A sub-command's module is imported only when it runs, so that `--help` is
instant and nothing that needs no model pays for importing TorchRec.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys

_INTERRUPTIBLE = (
    os.path.basename(sys.argv[0]).startswith(("ecdctr", "cli."))
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
)
if _INTERRUPTIBLE:  # while modules are imported Ctrl-C ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import click  # noqa: E402

from errors import UserError  # noqa: E402

COMMANDS: dict[str, tuple[str, str]] = {
    "config": ("config_command", "Print the effective configuration and where each value is from."),
    "kafka": ("streaming.kafka_command", "Keep a real one-node Apache Kafka running."),
    "topics": ("streaming.topics_command", "Create the topics that are missing."),
    "simulate": ("streaming.simulate", "Write a synthetic market's impressions."),
    "import": ("streaming.importer", "Turn a CSV or Parquet log into an impression log."),
    "dead-letters": ("streaming.dead_letters_command", "List, count or send back dead letters."),
    "train": ("trainers.train", "Train a level on impressions as they arrive."),
    "refresh": ("embeddings.refresher", "Make historical embeddings of TPM's snapshots."),
    "plan": ("trainers.plan", "Show which table goes where, and the memory it takes."),
    "replay": ("trainers.replay.command", "Compare ways to learn, on a recorded log."),
    "monitor": ("monitoring.monitor", "Watch the quality of all levels' predictions."),
    "status": ("monitoring.status", "Show every process of a run directory, live."),
    "targets": ("monitoring.targets", "Tell Prometheus where a run directory's processes are."),
    "demo": ("monitoring.demo", "Everything together on a synthetic market, with a live view."),
}
"""Sub-command to the module that holds its `command`, and its line of help."""


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        if _INTERRUPTIBLE:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if near and args[0] not in COMMANDS:
            ctx.fail(f"No such command '{args[0]}'; did you mean {near[0]}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Processes"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup)
@click.version_option(package_name="ecdctr")
def cli() -> None:
    """E-CDCTR as a streaming, continually learning system."""


def main() -> None:
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except UserError as error:
        click.echo(f"ecdctr: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
