"""What was tried to make the slowest parts of the adapter faster, and what it gave."""

from __future__ import annotations

NOTE = """\
In milliseconds, before and after, on one thread of an AMD EPYC that other programs used too: the fastest of 25 to 60
calls, with the candidates in turns. At r = 8, for 1,024 tokens in float32, if the line says nothing else. A change was
kept if the case became more than 5 % faster and nothing else became slower."""
HEADS = ("tried", "what was timed", "before", "after", "kept")
ATTEMPTS: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "Write the update first; add the product with the frozen weight to it (beta = 1)",
        "the update on 5,504 outputs, beside a product with 256 inputs",
        "3.0",
        "0.9",
        "yes",
    ),
    ("The same", "the update on 2,048 outputs, beside a product with 256 inputs", "1.2", "0.9", "yes"),
    (
        "The products of block operators overwrite the new tensor; nothing is read and added",
        "decouple, 2048 x 2048, forward pass",
        "16.0",
        "14.4",
        "yes",
    ),
    ("The same", "decouple, 2048 x 2048, gradient of the input", "15.1", "14.2", "yes"),
    ("The same", "rotation, 5504 x 2048, forward pass", "24.0", "19.4", "yes"),
    (
        "Without rotation, all blocks add to one gradient of M",
        "decouple, 2048 x 2048, gradient of M",
        "16.2",
        "14.0",
        "yes",
    ),
    ("These three together", "sharing, 576 x 1536, what the adapter adds (LoRA: 16.0)", "7.0", "4.9", "yes"),
    ("These three together", "sharing, 2048 x 2048, what the adapter adds (LoRA: 44.4)", "14.5", "12.9", "yes"),
    ("These three together", "decouple, 2048 x 2048, what the adapter adds (LoRA: 44.4)", "54.4", "42.2", "yes"),
    ("These three together", "rotation, 576 x 1536, what the adapter adds (LoRA: 16.0)", "14.9", "13.7", "yes"),
    ("These three together", "rotation, 2048 x 2048, what the adapter adds (LoRA: 44.4)", "51.1", "49.3", "yes"),
    ("One batched product over all full blocks", "decouple, 2048 x 2048, gradient of M", "16.2", "18.7", "no"),
    ("No copies of the blocks", "decouple, 2048 x 2048, gradient of M", "16.2", "17.6", "no"),
    ("A copy of the left block only", "decouple, 2048 x 2048, gradient of M", "16.2", "15.7", "no"),
    ("256 tokens at a time", "decouple, 2048 x 2048, gradient of M", "16.2", "16.7", "no"),
    (
        "A merge adds whole rows of delta; the columns of M are repeated once",
        "smollm2-135m, all layers, contiguous groups",
        "42.8",
        "31.6",
        "no, because of the next two lines",
    ),
    ("The same", "smollm2-135m, all layers, strided groups", "102.7", "135.0", "no"),
    ("The same", "11008 x 4096, r = 128, contiguous and strided groups", "47", "60", "no"),
    ("`torch._foreach_zero_` clears the moments", "llama-250m, r = 128 (a restart: 458)", "46.2", "44.9", "no"),
    ("`torch._foreach_zero_` clears M", "llama-250m, r = 128 (a restart: 458)", "22.4", "22.2", "no"),
    ("A cached list of runs", "each operator keeps its list already", "-", "-", "-"),
)
