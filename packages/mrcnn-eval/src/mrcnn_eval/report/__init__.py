"""Tables, pictures and the HTML report of an evaluation."""
