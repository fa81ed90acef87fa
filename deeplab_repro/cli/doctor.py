"""``deeplab-repro doctor``"""

from __future__ import annotations

import click
from rich.markup import escape

from deeplab_repro.cli.common import console, json_option, make_table, write_json

_MARKS = {
    "ok": "[green]ok[/]",
    "missing": "[yellow]missing[/]",
    "problem": "[red]problem[/]",
    "info": "",
}


@click.command("doctor")
@json_option
def command(json_file: str | None) -> None:
    """Show what this installation can do, and why not more.

    Exit code 0: all that is here works; 2: something does not.
    """
    from deeplab_repro.doctor import examine

    report = examine()
    for section, findings in report.sections.items():
        table = make_table(f"[bold]{section}[/]", name="left", status="left", value="left")
        table.show_header = False
        for finding in findings:
            hint = f"\n[dim]{escape(finding.hint)}[/]" if finding.hint else ""
            table.add_row(finding.name, _MARKS[finding.status], escape(finding.value) + hint)
        console.print(table)
        console.print()
    write_json(json_file, report.to_dict())
    if not report.ok:
        raise click.ClickException(
            "; ".join(f"{finding.name}: {finding.value}" for finding in report.problems)
        )
