"""`gengeo evaluate`: evaluate a model by a protocol."""

import typer

from gengeo_hf.cli.registry import EVALUATE, gengeo


@gengeo.command(
    panel=EVALUATE,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def evaluate(context: typer.Context) -> None:
    """Evaluate a model by a protocol and write one JSON result.

    **Example**

        gengeo evaluate --model ./model --protocol cvusa --data /data/CVUSA --out results/cvusa.json
    """
    from gengeo_hf.evaluation.run import main, parse

    main(parse(context.args))
