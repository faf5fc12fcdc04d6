"""`summary`: the layers of a cfg. No Keras here."""

from keras_sam.darknet import geometry, specs
from keras_sam.darknet.commands import arguments
from keras_sam.darknet.plan import log_notices


def add_parser(commands):
    """Adds the verb to the command."""
    parser = commands.add_parser(
        "summary",
        help="list the layers of a .cfg, with shapes and weights",
        description="Lists the layers of a .cfg, with shapes and weights.",
    )
    parser.add_argument("cfg", help="a Darknet configuration, model.cfg")
    arguments.add_input_shape(parser)
    parser.set_defaults(run=_run)


def _run(options):
    plan = arguments.plan(options)
    log_notices(plan)
    print(summary_table(plan))


def summary_table(plan):
    """Returns a table of a plan's layers, one line each, and its totals."""
    rows = [("layer", "reads", "output", "weights")]
    rows.append(("input", "", geometry.describe(plan.input_shape), ""))
    for spec in plan.layers:
        reads = ", ".join("input" if i < 0 else str(i) for i in spec.sources)
        if isinstance(spec, specs.Convolution) and spec.owner != spec.index:
            reads += f" (weights of {spec.owner})"
        weights = f"{spec.weight_count:,}" if spec.weight_count else ""
        rows.append((spec.name, reads, geometry.describe(spec.shape), weights))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{name:<{widths[0]}}  {reads:<{widths[1]}}  {output:>{widths[2]}}  "
        f"{weights:>{widths[3]}}".rstrip()
        for name, reads, output, weights in rows
    ]
    outputs = ", ".join(spec.name for spec in plan.outputs)
    lines.append(f"{len(plan.layers)} layers, {plan.weight_count:,} weights")
    lines.append(f"outputs: {outputs}")
    return "\n".join(lines)
