"""The review page of a run: what it did, some of its captions with their pictures, and corrections from people."""
