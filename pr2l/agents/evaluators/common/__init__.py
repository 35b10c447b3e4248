"""What evaluators share: screens, prompts, examples, judges and the cache of answers."""
