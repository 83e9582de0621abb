"""One tokenizer of every kind that takes new tokens, made here or shipped with a package."""

import importlib.resources
import shutil

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast
from transformers.models.gpt_sw3.tokenization_gpt_sw3 import GPTSw3Tokenizer

CORPUS = [
    "the red circle appears and then leaves the frame",
    "a blue square moves from left to right, USER: ASSISTANT:",
    "when does it happen? it starts at 12.3 seconds <t5> [é] 日本 45.0 67890 xyz jkq",
] * 20
MISTRAL = importlib.resources.files("mistral_common") / "data"


def byte_bpe(tmp):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|end|>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tok.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|end|>", pad_token="<pad>")


def unigram(tmp):
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizers.NFKC()
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<unk>", "</s>", "<pad>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    tok.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tok, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")


def word_piece(tmp):
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    tok.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, tok.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    )
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return PreTrainedTokenizerFast(tokenizer_object=tok, **names)


def llama(tmp):
    shutil.copy(MISTRAL / "tokenizer.model.v1", tmp / "tokenizer.model")
    return LlamaTokenizer.from_pretrained(tmp, pad_token="</s>")


def sentence_piece(tmp):
    """A backend without `tokenizers`: SentencePiece itself."""
    prefix = str(tmp / "spiece")
    options = {"vocab_size": 400, "hard_vocab_limit": False, "byte_fallback": True, "pad_id": 3, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_prefix=prefix, **options)
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return GPTSw3Tokenizer(vocab_file=f"{prefix}.model", name_or_path="tiny", **names)


def tiktoken(tmp):
    """As Llama 3: byte-level pieces cut by a regular expression, merges skipped for words the vocabulary has."""
    tok = Tokenizer(models.BPE(ignore_merges=True))
    cut = pre_tokenizers.Split(Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.Sequence([cut, bytes_only]), decoders.ByteLevel()
    special, alphabet = ["<|begin_of_text|>", "<|end_of_text|>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tok.train_from_iterator(CORPUS, trainer)
    first = [("<|begin_of_text|>", tok.token_to_id("<|begin_of_text|>"))]
    tok.post_processor = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=first)
    return PreTrainedTokenizerFast(
        tokenizer_object=tok, bos_token=special[0], eos_token=special[1], pad_token=special[1]
    )


MAKERS = {maker.__name__: maker for maker in (byte_bpe, tiktoken, unigram, word_piece, llama, sentence_piece)}
FAST = [name for name in MAKERS if name != "sentence_piece"]
