"""What ``sib-server doctor`` looks at: collectors find facts, judgements say what they mean."""
