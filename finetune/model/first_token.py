"""The first token of a new classifier, before it is trained: it reads all tokens alike, and tells texts apart.

Masked-language modelling asks nothing of the first token. Its state is all but the same for every text (on Complete
Journey what is the same is ten times as long as what differs), and the layer norms behind it leave what differs that
small. A narrow BERT then takes long to hear a single word, and with some seeds it never does. So the last layer's
queries start at zero, which makes its attention a mean over all tokens, and what is the same is taken away: an
initialization that looks at what the weights do (Mishkin and Matas, All you need is a good init, ICLR 2016). It looks
at random words and not at texts, so that nothing of a user is in it. Random weights are left as they are: what differs
between texts is so small there that the layer norm would blow up its gradient.
"""

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune.model.last_layer import encoder_layers

TEXTS, WORDS, SEED = 128, 64, 0  # random words; another draw moves the mean by little


def hear_all(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the last layer's first token attend to all tokens alike, and centre what it finds.

    The queries are set to zero. The bias in front of the attention's layer norm is lowered by the mean over texts of
    random words. Other encoders than BERT are left as they are.

    Args:
        model: A classifier whose head reads the first token.
        tokenizer: Gives the words.
    """
    layers = encoder_layers(model)
    if model.config.model_type != "bert" or layers is None:
        return
    attention: Any = layers[-1].attention
    query, output = attention.self.query, attention.output
    draw = torch.Generator().manual_seed(SEED)
    words = torch.randint(len(tokenizer), (TEXTS, min(WORDS, tokenizer.model_max_length)), generator=draw)
    for place, token in ((0, tokenizer.cls_token_id), (-1, tokenizer.sep_token_id)):
        assert isinstance(token, int)  # a BERT's tokenizer has both
        words[:, place] = token
    states: list[torch.Tensor] = []
    hook = output.LayerNorm.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0][:, 0]))
    training = model.training
    with torch.no_grad():
        query.weight.zero_()
        query.bias.zero_()
        model.eval()(input_ids=words, attention_mask=torch.ones_like(words))
        output.dense.bias -= states[0].mean(0)
    model.train(training)
    hook.remove()
