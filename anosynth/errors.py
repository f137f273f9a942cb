"""What may go wrong through no fault of the code: errors that end in one sentence, not in a traceback."""

EXIT_PROBLEMS = 1
EXIT_WRONG_INPUT = 2
EXIT_TEMPORARY = 75


class AnosynthError(Exception):
    """Base of every error a user can cause or mend; its text says what, where, what was found, what to do."""

    exit_code = EXIT_WRONG_INPUT


class ParamsError(AnosynthError):
    """params.yaml (or an argument) holds a value that is not allowed."""


class DataError(AnosynthError):
    """Real input data are missing, unreadable, contradictory or leaking."""


class ShardError(AnosynthError):
    """A generated shard, manifest or store is missing, damaged or of another version."""


class BackboneError(AnosynthError):
    """A diffusion backbone, encoder or adapter cannot be opened or does not fit."""


class TrainingError(AnosynthError):
    """Training cannot go on, for example because the loss is no longer finite."""


class TemporaryError(AnosynthError):
    """Trouble that may heal by itself (memory of a shared device, a file system away): worth a retry."""

    exit_code = EXIT_TEMPORARY
