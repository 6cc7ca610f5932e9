"""A stand-in until the command is written."""


def main() -> None:
    """Run the command."""
