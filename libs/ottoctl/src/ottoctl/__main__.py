"""`ottoctl`: runs a command; whatever goes wrong is a sentence and an exit code, never a traceback (unless OTTO_DEBUG is set)."""

import os
import sys


def main() -> None:
    """Runs ottoctl with the process's arguments and exits."""
    from ottoctl.cli import app
    from ottoctl.completion import whole_words
    from ottoctl.exit_codes import BROKEN_PIPE

    whole_words(os.environ)
    # gRPC's own resolver knows nothing of what the system knows besides DNS, and asks the world for what a search domain has answered.
    os.environ.setdefault("GRPC_DNS_RESOLVER", "native")

    try:
        app()
    except Exception as error:
        from ottoctl.pipeline_file import PipelineFileError  # only now: gRPC and YAML take a tenth of a second to import
        from ottoctl.words import ServiceError

        if os.environ.get("OTTO_DEBUG") or not isinstance(error, PipelineFileError | ServiceError | OSError):
            raise
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(BROKEN_PIPE)
        if isinstance(error, OSError) and error.filename and error.strerror:
            print(f"ottoctl: {error.filename}: {error.strerror}", file=sys.stderr)
            sys.exit(2)
        print(f"ottoctl: {error}" if not isinstance(error, PipelineFileError) else str(error), file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, ServiceError) else 2)


if __name__ == "__main__":
    main()
