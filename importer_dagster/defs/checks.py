"""Which checks an asset has.

What does not belong here: their results (``defs/metadata.py``).
"""

import dagster as dg

from importer_dagster.spec.table import TableSpec

ARRIVED = "arrived"  # the check of what never came


def check_specs(spec: TableSpec) -> list[dg.AssetCheckSpec]:
    """The checks of a type; they are evaluated in its own step, which costs no process."""
    checks = [
        dg.AssetCheckSpec("rejects", asset=spec.name, description="No record was put aside."),
        dg.AssetCheckSpec("drift", asset=spec.name, description="The headers are those of the spec."),
    ]
    if spec.is_gated:
        checks.append(
            dg.AssetCheckSpec("gate", asset=spec.name, description="Nothing is suspicious or held.")
        )
    if spec.expected_by:
        checks.append(
            dg.AssetCheckSpec(
                ARRIVED,
                asset=spec.name,
                description=f"Every tenant's file is there by {spec.expected_by}. Looked at by schedule and sensor.",
            )
        )
    if spec.tableschema.foreignKeys:
        checks.append(
            dg.AssetCheckSpec(
                "references",
                asset=spec.name,
                description="What the rows refer to is there. Looked at when they are loaded: what "
                "arrives later, be it in the same run, is not counted.",
            )
        )
    return checks
