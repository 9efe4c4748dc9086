"""Captioners that are selected with `--captioner=NAME`, one module each; heavy libraries are imported only in `load()`.

A module has a function

    def open_captioner(config: JobConfig, version: str | None) -> PictureCaptioner

that `beam_job.config.NAMED_CAPTIONERS` lists. It is called once before the run with `version=None`, and the `version`
of its captioner is stored in `run.json`. Then it is called in each process that captions, with that version, which
contains what must not change within a run, such as a revision. It needs `version` (`versions.caption_digest` covers
prompts and options), `max_side` (`config.max_side` or a default), `batch_size` and `caption_pictures`; `Picture.prompt`
is ready to be used. Errors that a user can fix are raised as `model.CaptionerError`, with a message of one line.
"""
