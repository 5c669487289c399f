"""How much a call can cost at most, before it is made. Enters: what is asked, of which model. Leaves: `Bound` or a refusal.

Hold = the sum over prompts of that prompt's input + prompts × max(n, best_of) × cap. `estimate` divides bytes of text by three, and
of whatever may become text; `strict` promises that the true figure is never higher, and takes the model's whole context for whatever it cannot bound.
"""

from __future__ import annotations

import msgspec

from slm_authz.llm.ask import Ask, Prompt
from slm_authz.reason import Denial, Reason
from slm_authz.settings.schema import Model, Price


class Bound(msgspec.Struct, frozen=True, gc=False):
    """Upper bounds of one call. cap: the effective output cap per answer; tokens in tokens, cost in nanos (None: no price)."""

    cap: int
    copies: int
    input_tokens: int
    output_tokens: int
    cost: int | None

    @property
    def tokens(self) -> int:
        """Input and output together: what a token limit holds."""
        return self.input_tokens + self.output_tokens


IMAGE_TOKENS = 1000
"""What an estimate takes for an image of a model without `image_tokens`: a large one of today's vision models."""
NO_TOKENS = Bound(0, 0, 0, 0, None)


def price_of(model: Model) -> Price | None:
    """The price that is charged; None where nothing is (no price, or `free`)."""
    return model.price if isinstance(model.price, Price) else None


def cost(price: Price | None, input_tokens: int, output_tokens: int) -> int | None:
    """Nanos of a call, rounded up once."""
    if price is None:
        return None
    return -(-(input_tokens * price.input + output_tokens * price.output) // price.per)


def bound(ask: Ask, model: Model, *, strict: bool, distrusted: bool = False) -> Bound | Denial:
    """The bound of a call. `distrusted`: a call to this model exceeded its bound, so `strict` takes the context from then on."""
    cap = 0
    if ask.generates:
        if ask.cap is None or ask.open_cap:
            if model.cap_absent == "refuse":
                return Denial(
                    Reason.MALFORMED_REQUEST, "Name an output cap: this model takes no request without max_tokens.", param="max_tokens"
                )
            cap = model.default_output_tokens
        if ask.cap is not None and ask.cap > model.max_output_tokens:
            return Denial(
                Reason.CAP_TOO_LARGE,
                f"This model generates at most {model.max_output_tokens} tokens; ask for no more than that.",
                param="max_tokens",
            )
        cap = max(cap, ask.cap or 0)
    tokens_in = 0
    for prompt in ask.prompts:
        tokens_in += _strict_input(prompt, model, distrusted=distrusted) if strict else _estimated_input(prompt, model)
    copies = len(ask.prompts) * ask.choices
    tokens_out = copies * cap
    return Bound(cap, copies, tokens_in, tokens_out, cost(price_of(model), tokens_in, tokens_out))


def _estimated_input(prompt: Prompt, model: Model) -> int:
    tokens = -(-(prompt.text_bytes + prompt.other_bytes) // 3) + prompt.tokens + model.template_tokens
    if prompt.images:
        tokens += prompt.images * (model.image_tokens if model.image_tokens is not None else IMAGE_TOKENS)
    # What is no text may be short for the model (a base64 file): an estimate never says more than the server accepts in all.
    return min(tokens, model.context) if prompt.other_bytes and model.context is not None else tokens


def _strict_input(prompt: Prompt, model: Model, *, distrusted: bool) -> int:
    context = model.context
    if context is None:  # the configuration's check makes `context` mandatory with `strict`
        raise AssertionError("strict needs the model's context")
    if distrusted or prompt.opaque or model.tokens_per_byte is None or (prompt.images and model.image_tokens is None):
        return context
    images = prompt.images * (model.image_tokens or 0)
    return min(context, prompt.text_bytes * model.tokens_per_byte + prompt.tokens + images + model.template_tokens)
