"""Scores over HTTP while the user is on the page: events in, histories kept, the batch's text and score out."""
