"""``bulkhead prices``."""

from typing import Annotated

import typer

from controlplane.cli.server import Server, connected

app = typer.Typer(help="What models cost, where their list price is not known or not yours.", no_args_is_help=True)

_COLUMNS = ("id", "model", "input", "output", "cache_read", "cache_write")


@app.command("set")
@connected
def set_price(
    server: Server,
    model: Annotated[str, typer.Argument(help="A model's name, or a glob pattern.")],
    *,
    input_rate: Annotated[str, typer.Option("--input", help="US dollars per million tokens.")],
    output_rate: Annotated[str, typer.Option("--output", help="US dollars per million tokens.")],
    cache_read: Annotated[str | None, typer.Option("--cache-read", help="As input, if omitted.")] = None,
    cache_write: Annotated[str | None, typer.Option("--cache-write", help="As input, if omitted.")] = None,
) -> None:
    """Set what a model costs; it precedes the list price."""
    rates = {"input": input_rate, "output": output_rate, "cache_read": cache_read, "cache_write": cache_write}
    given = {key: value for key, value in rates.items() if value is not None}
    server.output.object(server.post("/v1/prices", {"model": model, **given}), _COLUMNS)


@app.command("list")
@connected
def show_prices(server: Server) -> None:
    """List the prices that were set."""
    server.output.table(server.get("/v1/prices")["data"], _COLUMNS)


@app.command("delete")
@connected
def delete_price(server: Server, price: str) -> None:
    """Remove a price; the list price holds again."""
    server.output.object(server.delete(f"/v1/prices/{price}"), ("id",))
