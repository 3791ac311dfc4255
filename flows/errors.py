"""How a stage ends when it does not end well; the kind says whether to try it again."""

FULL = "No space left on device"  # how a full disk is said, whoever says it


class StageFailed(RuntimeError):
    """A stage ended with an error of its own: trying again would meet it again. The message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class StageRefused(StageFailed):
    """A stage refused its input (exit code 2)."""


class StageLost(StageFailed):
    """A stage was killed, or something around it failed (a remote, a lock, a full disk): another try may not meet it."""


class StagePreempted(StageLost):
    """A stage was told to end and has written its state (exit code 75): to be run again as soon as there is a place for it."""


class StageFull(StageLost):
    """A disk was full."""


class StageUnfit(StageLost):
    """This machine cannot run the commit now (no compiler for its kernel, packages that it cannot fetch): for another one."""


def lost(message: str) -> StageLost:
    """The StageLost for what a remote or disk says."""
    return StageFull(message) if FULL in message else StageLost(message)
