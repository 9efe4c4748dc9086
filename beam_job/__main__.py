"""`python -m beam_job`, also installed as `caption-images`."""

from beam_job.cli.command import command as command

if __name__ == "__main__":
    command()
