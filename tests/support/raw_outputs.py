"""What SenseVoice writes, as others have published it, and what a transcript must be.

The texts are those of the model's own example recordings (`example/*.mp3` of SenseVoiceSmall) and
of public notes of people who ran it. Where a note shows only a kind of output (spaces within
Japanese, a full stop alone), the words are ours. The kind says where each is from.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RawOutput:
    """A raw output, and the transcript of it. `language` and `emotion` are those of the whole."""

    kind: str
    raw: str
    text: str
    language: str
    emotion: str
    events: tuple[str, ...] = ("Speech",)


RAW_OUTPUTS = (
    # The model's examples, without and with punctuation and digits.
    RawOutput(
        "example zh, woitn",
        "<|zh|><|NEUTRAL|><|Speech|><|woitn|>开饭时间早上九点至下午五点",
        "开饭时间早上九点至下午五点",
        "zh",
        "NEUTRAL",
    ),
    RawOutput(
        "example zh, withitn",
        "<|zh|><|NEUTRAL|><|Speech|><|withitn|>开饭时间早上9点至下午5点。",
        "开饭时间早上9点至下午5点。",
        "zh",
        "NEUTRAL",
    ),
    RawOutput(
        "example en, woitn",
        "<|en|><|NEUTRAL|><|Speech|><|woitn|>the tribal chieftain called for the boy and presented "
        "him with fifty pieces of gold",
        "the tribal chieftain called for the boy and presented him with fifty pieces of gold",
        "en",
        "NEUTRAL",
    ),
    RawOutput(
        "example en, withitn",
        "<|en|><|NEUTRAL|><|Speech|><|withitn|>The tribal chieftain called for the boy and "
        "presented him with 50 pieces of gold.",
        "The tribal chieftain called for the boy and presented him with 50 pieces of gold.",
        "en",
        "NEUTRAL",
    ),
    RawOutput(
        "example yue, woitn",
        "<|yue|><|NEUTRAL|><|Speech|><|woitn|>呢几个字都表达唔到我想讲嘅意思",
        "呢几个字都表达唔到我想讲嘅意思",
        "yue",
        "NEUTRAL",
    ),
    RawOutput(
        "example yue, withitn",
        "<|yue|><|NEUTRAL|><|Speech|><|withitn|>呢几个字都表达唔到，我想讲嘅意思。",
        "呢几个字都表达唔到，我想讲嘅意思。",
        "yue",
        "NEUTRAL",
    ),
    RawOutput(
        "example ja, woitn: digits all the same",
        "<|ja|><|NEUTRAL|><|Speech|><|woitn|>うちの中学は弁当制で持っていきない場合は50円の学校販売のパンを買う",
        "うちの中学は弁当制で持っていきない場合は50円の学校販売のパンを買う",
        "ja",
        "NEUTRAL",
    ),
    RawOutput(
        "example ja, withitn",
        "<|ja|><|NEUTRAL|><|Speech|><|withitn|>うちの中学は弁当制で持っていきない場合は、50円の学校販売のパンを買う。",
        "うちの中学は弁当制で持っていきない場合は、50円の学校販売のパンを買う。",
        "ja",
        "NEUTRAL",
    ),
    RawOutput(
        "example ko, woitn",
        "<|ko|><|NEUTRAL|><|Speech|><|woitn|>조금만 생각을 하면서 살면 훨씬 편할 거야",
        "조금만 생각을 하면서 살면 훨씬 편할 거야",
        "ko",
        "NEUTRAL",
    ),
    RawOutput(
        "example ko, withitn",
        "<|ko|><|NEUTRAL|><|Speech|><|withitn|>조금만 생각을 하면서 살면 훨씬 편할 거야.",
        "조금만 생각을 하면서 살면 훨씬 편할 거야.",
        "ko",
        "NEUTRAL",
    ),
    # A README with outputs for recordings of emotions and of sounds.
    RawOutput(
        "emotion unknown, en",
        "<|en|><|EMO_UNKNOWN|><|Speech|><|woitn|>i did go and made many prisoners",
        "i did go and made many prisoners",
        "en",
        "EMO_UNKNOWN",
    ),
    RawOutput(
        "emotion sad, en",
        "<|en|><|SAD|><|Speech|><|woitn|>i did go and made many prisoners",
        "i did go and made many prisoners",
        "en",
        "SAD",
    ),
    RawOutput(
        "emotion angry, zh, over applause",
        "<|zh|><|ANGRY|><|Applause|><|woitn|>我起飞前没有扫二维码",
        "我起飞前没有扫二维码",
        "zh",
        "ANGRY",
        ("Applause",),
    ),
    RawOutput(
        "crying alone",
        "<|nospeech|><|EMO_UNKNOWN|><|Cry|><|woitn|>",
        "",
        "nospeech",
        "EMO_UNKNOWN",
        ("Cry",),
    ),
    RawOutput(
        "laughter alone, ja",
        "<|ja|><|EMO_UNKNOWN|><|Laughter|><|woitn|>",
        "",
        "ja",
        "EMO_UNKNOWN",
        ("Laughter",),
    ),
    RawOutput(
        "coughing alone, withitn",
        "<|nospeech|><|EMO_UNKNOWN|><|Cough|><|withitn|>.",
        "",
        "nospeech",
        "EMO_UNKNOWN",
        ("Cough",),
    ),
    # Adapters' tests and notes.
    RawOutput(
        "silence with a full stop",
        "<|nospeech|><|EMO_UNKNOWN|><|Event_UNK|><|withitn|>.",
        "",
        "nospeech",
        "EMO_UNKNOWN",
        (),
    ),
    RawOutput(
        "a full stop alone, ja, behind a space",
        "<|ja|><|NEUTRAL|><|Speech|><|woitn|> 。",
        "",
        "ja",
        "NEUTRAL",
    ),
    RawOutput(
        "what the model writes for noise",
        "<|en|><|EMO_UNKNOWN|><|Speech|><|withitn|>The.",
        "",
        "en",
        "EMO_UNKNOWN",
    ),
    RawOutput(
        "music under speech, ja",
        "<|ja|><|EMO_UNKNOWN|><|BGM|><|withitn|>この番組はご覧のスポンサーの提供でお送りしました。",
        "この番組はご覧のスポンサーの提供でお送りしました。",
        "ja",
        "EMO_UNKNOWN",
        ("BGM",),
    ),
    RawOutput(
        "two events, zh",
        "<|zh|><|HAPPY|><|Speech|><|Laughter|><|withitn|>今天真的太开心啦，哈哈！",
        "今天真的太开心啦，哈哈！",
        "zh",
        "HAPPY",
        ("Speech", "Laughter"),
    ),
    RawOutput(
        "two segments in one output, each with its emotion and event",
        "<|zh|><|SAD|><|Speech|><|withitn|>明早9点要汇报。<|zh|><|NEUTRAL|><|Cry|><|withitn|>好累。",
        "明早9点要汇报。好累。",
        "zh",
        "SAD",
        ("Speech", "Cry"),
    ),
    RawOutput(
        "two segments of two languages",
        "<|zh|><|HAPPY|><|Laughter|><|withitn|>大家好。 <|en|><|NEUTRAL|><|Speech|><|withitn|>"
        "Hello everyone.",
        "大家好。 Hello everyone.",
        "zh",
        "HAPPY",
        ("Laughter", "Speech"),
    ),
    RawOutput(
        "emotion at the end, event around a word: the hosted model's form",
        "<|Applause|>今天<|/Applause|>天气好棒啊!<|HAPPY|>",
        "今天天气好棒啊!",
        "nospeech",
        "HAPPY",
        ("Applause",),
    ),
    RawOutput(
        "the hosted model's token for no emotion",
        "<|en|><|Speech|>Hello there.<|/Speech|><|SPECIAL_TOKEN_1|>",
        "Hello there.",
        "en",
        "EMO_UNKNOWN",
    ),
    RawOutput(
        "no language and no written form",
        "<|EMO_UNKNOWN|><|Speech|><|withitn|>你好",
        "你好",
        "nospeech",
        "EMO_UNKNOWN",
    ),
    RawOutput(
        "an event after the text, yue",
        "<|yue|><|ANGRY|>测试<|Speech|>",
        "测试",
        "yue",
        "ANGRY",
    ),
    RawOutput(
        "emotion before the language",
        "<|NEUTRAL|><|zh|>只有中性",
        "只有中性",
        "zh",
        "NEUTRAL",
        (),
    ),
    RawOutput(
        "a tag that nobody knows, ko, and half of one in the text",
        "<|ko|><|EMO_UNKNOWN|><|Event_UNK|><|future_tag|>본문 <broken> <|",
        "본문 <broken> <|",
        "ko",
        "EMO_UNKNOWN",
        (),
    ),
    RawOutput(
        "a language besides the five",
        "<|de|><|NEUTRAL|><|Speech|><|withitn|>Guten Tag.",
        "Guten Tag.",
        "de",
        "NEUTRAL",
    ),
    RawOutput(
        "spaces between words, ja",
        "<|ja|><|NEUTRAL|><|Speech|><|withitn|>次 は 私 たちが OK Google と 言って ください 。",
        "次は私たちが OK Google と言ってください。",
        "ja",
        "NEUTRAL",
    ),
    RawOutput(
        "spaces between pieces, yue and zh",
        "<|yue|><|NEUTRAL|><|Speech|><|woitn|> 呢几个字 都表达唔到",
        "呢几个字都表达唔到",
        "yue",
        "NEUTRAL",
    ),
    RawOutput(
        "Latin words in Chinese",
        "<|zh|><|NEUTRAL|><|Speech|><|withitn|>这是 GitHub 上的仓库，有3个PR。",
        "这是 GitHub 上的仓库，有3个PR。",
        "zh",
        "NEUTRAL",
    ),
    RawOutput(
        "spaces in Korean stay, many are one",
        "<|ko|><|HAPPY|><|Speech|><|withitn|>안녕  하세요 반가워요!",
        "안녕 하세요 반가워요!",
        "ko",
        "HAPPY",
    ),
    RawOutput(
        "many spaces in English",
        "<|en|><|HAPPY|><|BGM|><|withitn|> Hello  world. ",
        "Hello world.",
        "en",
        "HAPPY",
        ("BGM",),
    ),
    RawOutput("nothing at all", "", "", "nospeech", "EMO_UNKNOWN", ()),
)
