"""LoRA made by other hands than PEFT's, and the way from there to a PEFT adapter and back."""
