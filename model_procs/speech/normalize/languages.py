"""The words of each language for signs, units, currencies and months. Used in speech workers.

Numbers themselves come from num2words. A language that is not here is left as it is written: the
engine reads its numbers as well as it can.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Money:
    """A currency: one, several; one cent, several cents. Without cents `cent` is empty."""

    one: str
    many: str
    cent: str = ""
    cents: str = ""


@dataclass(frozen=True, slots=True)
class Language:
    """One language. `numbers` is its name for num2words; `comma`: decimals come after a comma.

    `signs` are words for signs between two operands, `units` have the words for one and for several
    of a unit; the word for one has its article, so that it needs no number.
    """

    numbers: str
    comma: bool
    point: str
    dot: str
    minus: str
    to: str
    per: str
    over: str
    at: str
    slash: str
    and_: str
    number: str
    about: str
    by: str
    power: str
    squared: str
    cubed: str
    degrees: tuple[str, str]
    clock: tuple[str, str]
    """The word after a full hour, and the word between hour and minute."""
    months: tuple[str, ...]
    fractions: tuple[tuple[str, str], ...]
    """One and several halves, thirds, quarters."""
    scales: dict[str, str]
    """Words for thousands and millions that are written as a letter after an amount of money."""
    signs: dict[str, str]
    money: dict[str, Money] = field(default_factory=dict)
    units: dict[str, tuple[str, str]] = field(default_factory=dict)


def _units(table: str) -> dict[str, tuple[str, str]]:
    """Lines of "km, KM: one kilometer|kilometers"."""
    found: dict[str, tuple[str, str]] = {}
    for line in table.strip().splitlines():
        names, _, words = line.partition(":")
        one, _, many = words.strip().partition("|")
        found |= {name.strip(): (one, many or one) for name in names.split(",")}
    return found


def _money(table: str) -> dict[str, Money]:
    """Lines of "$, USD: one dollar|dollars|one cent|cents"."""
    found: dict[str, Money] = {}
    for line in table.strip().splitlines():
        names, _, words = line.partition(":")
        money = Money(*words.strip().split("|"))
        found |= {name.strip(): money for name in names.split(",")}
    return found


GREEK = dict(
    zip(
        "αβγδεζηθικλμνξοπρστυφχψω",
        (
            *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota"),
            *("kappa", "lambda", "mu", "nu", "xi", "omicron", "pi", "rho", "sigma", "tau"),
            *("upsilon", "phi", "chi", "psi", "omega"),
        ),
        strict=True,
    )
) | {"ς": "sigma", "ϕ": "phi", "ϑ": "theta", "ϵ": "epsilon", "µ": "mu"}
"""Names of Greek letters, which all languages here share."""

_INTERNATIONAL = """
    Hz: {one} hertz|hertz
    kHz: {one} kilohertz|kilohertz
    MHz: {one} megahertz|megahertz
    GHz: {one} gigahertz|gigahertz
    W: {one} watt|watt
    kW: {one} kilowatt|kilowatt
    MW: {one} megawatt|megawatt
    V: {one} volt|volt
    kV: {one} kilovolt|kilovolt
    mA: {one} milliampere|milliampere
    dB: {one} decibel|decibel
    kB, KB: {one} kilobyte|kilobyte
    MB: {one} megabyte|megabyte
    GB: {one} gigabyte|gigabyte
    TB: {one} terabyte|terabyte
    KiB: {one} kibibyte|kibibyte
    MiB: {one} mebibyte|mebibyte
    GiB: {one} gibibyte|gibibyte
    Ω: {one} ohm|ohm
    kΩ: {one} kiloohm|kiloohm
    hPa: {one} hectopascal|hectopascal
    kPa: {one} kilopascal|kilopascal
    kJ: {one} kilojoule|kilojoule
"""


def _international(one: str, plural: str = "") -> dict[str, tuple[str, str]]:
    """Units whose names are alike in all these languages."""
    return {
        name: (single, many if many.endswith("hertz") else many + plural)
        for name, (single, many) in _units(_INTERNATIONAL.replace("{one}", one)).items()
    }


ENGLISH = Language(
    numbers="en",
    comma=False,
    point="point",
    dot="dot",
    minus="minus",
    to="to",
    per="per",
    over="over",
    at="at",
    slash="slash",
    and_="and",
    number="number",
    about="about",
    by="by",
    power="to the power of",
    squared="squared",
    cubed="cubed",
    degrees=("one degree", "degrees"),
    clock=("o'clock", ""),
    months=(
        *("January", "February", "March", "April", "May", "June", "July", "August"),
        *("September", "October", "November", "December"),
    ),
    fractions=(("one half", "halves"), ("one third", "thirds"), ("one quarter", "quarters")),
    scales={"k": "thousand", "m": "million", "mn": "million", "bn": "billion", "b": "billion"}
    | {"t": "trillion", "tn": "trillion"},
    signs={
        "+": "plus", "×": "times", "·": "times", "⋅": "times", "*": "times", "÷": "divided by",
        "=": "equals", "≠": "is not equal to", "≈": "is about", "≡": "is identical to",
        "<": "less than", ">": "greater than", "≤": "less than or equal to",
        "≥": "greater than or equal to", "±": "plus or minus", "%": "percent", "‰": "per mille",
        "&": "and", "§": "section", "©": "copyright", "√": "the square root of", "∞": "infinity",
        "∑": "the sum of", "∫": "the integral of", "∂": "partial", "∆": "delta", "∈": "in",
        "^": "to the power of", "¢": "cents", "′": "minutes", "″": "seconds",
    },
    money=_money(
        """
        $, US$, USD: one dollar|dollars|one cent|cents
        C$, CA$, CAD: one Canadian dollar|Canadian dollars|one cent|cents
        A$, AU$, AUD: one Australian dollar|Australian dollars|one cent|cents
        €, EUR: one euro|euros|one cent|cents
        £, GBP: one pound|pounds|one penny|pence
        ¥, JPY: one yen|yen
        CHF: one Swiss franc|Swiss francs|one centime|centimes
        ₹, INR: one rupee|rupees|one paisa|paise
        ₽, RUB: one ruble|rubles|one kopeck|kopecks
        ₩, KRW: one won|won
        ₿, BTC: one bitcoin|bitcoins
        CNY, RMB: one yuan|yuan
        """
    ),
    units=_international("one", "s")
    | _units(
        """
        km: one kilometer|kilometers
        m: one meter|meters
        cm: one centimeter|centimeters
        mm: one millimeter|millimeters
        µm, μm: one micrometer|micrometers
        nm: one nanometer|nanometers
        km², km2: one square kilometer|square kilometers
        m², m2: one square meter|square meters
        cm², cm2: one square centimeter|square centimeters
        m³, m3: one cubic meter|cubic meters
        cm³, cm3: one cubic centimeter|cubic centimeters
        ft: one foot|feet
        ft², sq ft: one square foot|square feet
        yd: one yard|yards
        mi: one mile|miles
        kg: one kilogram|kilograms
        g: one gram|grams
        mg: one milligram|milligrams
        µg, μg, mcg: one microgram|micrograms
        lb, lbs: one pound|pounds
        oz: one ounce|ounces
        l, L: one liter|liters
        ml, mL: one milliliter|milliliters
        cl, cL: one centiliter|centiliters
        gal: one gallon|gallons
        tsp: one teaspoon|teaspoons
        tbsp: one tablespoon|tablespoons
        h, hr, hrs: one hour|hours
        min, mins: one minute|minutes
        s, sec, secs: one second|seconds
        ms: one millisecond|milliseconds
        µs, μs: one microsecond|microseconds
        ns: one nanosecond|nanoseconds
        km/h, kph, kmh: one kilometer per hour|kilometers per hour
        m/s: one meter per second|meters per second
        m/s²: one meter per second squared|meters per second squared
        mph: one mile per hour|miles per hour
        mAh: one milliampere hour|milliampere hours
        kWh: one kilowatt hour|kilowatt hours
        kcal: one kilocalorie|kilocalories
        Mbps, Mbit/s, Mb/s: one megabit per second|megabits per second
        Gbps, Gbit/s, Gb/s: one gigabit per second|gigabits per second
        kbps, kbit/s: one kilobit per second|kilobits per second
        kbit: one kilobit|kilobits
        MB/s: one megabyte per second|megabytes per second
        rpm: one revolution per minute|revolutions per minute
        fps: one frame per second|frames per second
        dpi: one dot per inch|dots per inch
        px: one pixel|pixels
        pt: one point|points
        °C, ℃: one degree Celsius|degrees Celsius
        °F, ℉: one degree Fahrenheit|degrees Fahrenheit
        """
    ),
)  # fmt: skip

GERMAN = Language(
    numbers="de",
    comma=True,
    point="Komma",
    dot="Punkt",
    minus="minus",
    to="bis",
    per="pro",
    over="durch",
    at="at",
    slash="Schrägstrich",
    and_="und",
    number="Nummer",
    about="ungefähr",
    by="mal",
    power="hoch",
    squared="Quadrat",
    cubed="hoch drei",
    degrees=("ein Grad", "Grad"),
    clock=("Uhr", "Uhr"),
    months=(
        *("Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August"),
        *("September", "Oktober", "November", "Dezember"),
    ),
    fractions=(("ein halb", "halbe"), ("ein Drittel", "Drittel"), ("ein Viertel", "Viertel")),
    scales={"k": "Tausend", "m": "Millionen", "mio": "Millionen", "mrd": "Milliarden"},
    signs={
        "+": "plus", "×": "mal", "·": "mal", "⋅": "mal", "*": "mal", "÷": "geteilt durch",
        "=": "gleich", "≠": "ungleich", "≈": "ungefähr gleich", "≡": "identisch mit",
        "<": "kleiner als", ">": "größer als", "≤": "kleiner oder gleich",
        "≥": "größer oder gleich", "±": "plus minus", "%": "Prozent", "‰": "Promille", "&": "und",
        "§": "Paragraph", "©": "Copyright", "√": "Wurzel aus", "∞": "unendlich",
        "∑": "Summe", "∫": "Integral", "∂": "partiell", "∆": "delta", "∈": "Element von",
        "^": "hoch", "¢": "Cent",
        "′": "Minuten", "″": "Sekunden",
    },
    money=_money(
        """
        $, US$, USD: ein Dollar|Dollar|ein Cent|Cent
        €, EUR: ein Euro|Euro|ein Cent|Cent
        £, GBP: ein Pfund|Pfund|ein Penny|Pence
        ¥, JPY: ein Yen|Yen
        CHF: ein Franken|Franken|ein Rappen|Rappen
        """
    ),
    units=_international("ein")
    | _units(
        """
        km: ein Kilometer|Kilometer
        m: ein Meter|Meter
        cm: ein Zentimeter|Zentimeter
        mm: ein Millimeter|Millimeter
        µm, μm: ein Mikrometer|Mikrometer
        km²: ein Quadratkilometer|Quadratkilometer
        m²: ein Quadratmeter|Quadratmeter
        cm²: ein Quadratzentimeter|Quadratzentimeter
        m³: ein Kubikmeter|Kubikmeter
        cm³: ein Kubikzentimeter|Kubikzentimeter
        kg: ein Kilogramm|Kilogramm
        g: ein Gramm|Gramm
        mg: ein Milligramm|Milligramm
        µg, μg: ein Mikrogramm|Mikrogramm
        t: eine Tonne|Tonnen
        l, L: ein Liter|Liter
        ml, mL: ein Milliliter|Milliliter
        h, Std.: eine Stunde|Stunden
        min, Min.: eine Minute|Minuten
        s, Sek.: eine Sekunde|Sekunden
        ms: eine Millisekunde|Millisekunden
        µs, μs: eine Mikrosekunde|Mikrosekunden
        km/h: ein Kilometer pro Stunde|Kilometer pro Stunde
        m/s: ein Meter pro Sekunde|Meter pro Sekunde
        kWh: eine Kilowattstunde|Kilowattstunden
        kcal: eine Kilokalorie|Kilokalorien
        °C, ℃: ein Grad Celsius|Grad Celsius
        °F, ℉: ein Grad Fahrenheit|Grad Fahrenheit
        """
    ),
)  # fmt: skip

FRENCH = Language(
    numbers="fr",
    comma=True,
    point="virgule",
    dot="point",
    minus="moins",
    to="à",
    per="par",
    over="sur",
    at="arobase",
    slash="barre oblique",
    and_="et",
    number="numéro",
    about="environ",
    by="par",
    power="puissance",
    squared="au carré",
    cubed="au cube",
    degrees=("un degré", "degrés"),
    clock=("heures", "heures"),
    months=(
        *("janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août"),
        *("septembre", "octobre", "novembre", "décembre"),
    ),
    fractions=(("un demi", "demis"), ("un tiers", "tiers"), ("un quart", "quarts")),
    scales={"k": "mille", "m": "millions de", "md": "milliards de"},
    signs={
        "+": "plus", "×": "fois", "·": "fois", "⋅": "fois", "*": "fois", "÷": "divisé par",
        "=": "égale", "≠": "différent de", "≈": "environ égal à", "≡": "identique à",
        "<": "inférieur à", ">": "supérieur à", "≤": "inférieur ou égal à",
        "≥": "supérieur ou égal à", "±": "plus ou moins", "%": "pour cent", "‰": "pour mille",
        "&": "et", "§": "paragraphe", "©": "copyright", "√": "racine carrée de", "∞": "infini",
        "∑": "somme de", "∫": "intégrale de", "∂": "partiel", "∆": "delta", "∈": "appartient à",
        "^": "puissance", "¢": "cents", "′": "minutes", "″": "secondes",
    },
    money=_money(
        """
        $, US$, USD: un dollar|dollars|un cent|cents
        €, EUR: un euro|euros|un centime|centimes
        £, GBP: une livre|livres|un penny|pence
        ¥, JPY: un yen|yens
        CHF: un franc suisse|francs suisses|un centime|centimes
        """
    ),
    units=_international("un", "s")
    | _units(
        """
        km: un kilomètre|kilomètres
        m: un mètre|mètres
        cm: un centimètre|centimètres
        mm: un millimètre|millimètres
        µm, μm: un micromètre|micromètres
        km²: un kilomètre carré|kilomètres carrés
        m²: un mètre carré|mètres carrés
        m³: un mètre cube|mètres cubes
        cm³: un centimètre cube|centimètres cubes
        kg: un kilogramme|kilogrammes
        g: un gramme|grammes
        mg: un milligramme|milligrammes
        µg, μg: un microgramme|microgrammes
        t: une tonne|tonnes
        l, L: un litre|litres
        ml, mL: un millilitre|millilitres
        h: une heure|heures
        min: une minute|minutes
        s: une seconde|secondes
        ms: une milliseconde|millisecondes
        km/h: un kilomètre à l'heure|kilomètres à l'heure
        m/s: un mètre par seconde|mètres par seconde
        kWh: un kilowattheure|kilowattheures
        kcal: une kilocalorie|kilocalories
        Ko: un kilooctet|kilooctets
        Mo: un mégaoctet|mégaoctets
        Go: un gigaoctet|gigaoctets
        °C, ℃: un degré Celsius|degrés Celsius
        °F, ℉: un degré Fahrenheit|degrés Fahrenheit
        """
    ),
)  # fmt: skip

SPANISH = Language(
    numbers="es",
    comma=True,
    point="coma",
    dot="punto",
    minus="menos",
    to="a",
    per="por",
    over="sobre",
    at="arroba",
    slash="barra",
    and_="y",
    number="número",
    about="aproximadamente",
    by="por",
    power="elevado a",
    squared="al cuadrado",
    cubed="al cubo",
    degrees=("un grado", "grados"),
    clock=("en punto", "y"),
    months=(
        *("enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto"),
        *("septiembre", "octubre", "noviembre", "diciembre"),
    ),
    fractions=(("un medio", "medios"), ("un tercio", "tercios"), ("un cuarto", "cuartos")),
    scales={"k": "mil", "m": "millones de"},
    signs={
        "+": "más", "×": "por", "·": "por", "⋅": "por", "*": "por", "÷": "dividido por",
        "=": "es igual a", "≠": "es distinto de", "≈": "es aproximadamente", "≡": "es idéntico a",
        "<": "menor que", ">": "mayor que", "≤": "menor o igual que", "≥": "mayor o igual que",
        "±": "más o menos", "%": "por ciento", "‰": "por mil", "&": "y", "§": "sección",
        "©": "copyright", "√": "raíz cuadrada de", "∞": "infinito", "∑": "suma de",
        "∫": "integral de", "∂": "parcial", "∆": "delta", "∈": "pertenece a",
        "^": "elevado a", "¢": "centavos", "′": "minutos", "″": "segundos",
    },
    money=_money(
        """
        $, US$, USD: un dólar|dólares|un centavo|centavos
        €, EUR: un euro|euros|un céntimo|céntimos
        £, GBP: una libra|libras|un penique|peniques
        ¥, JPY: un yen|yenes
        MXN: un peso|pesos|un centavo|centavos
        """
    ),
    units=_international("un", "s")
    | _units(
        """
        km: un kilómetro|kilómetros
        m: un metro|metros
        cm: un centímetro|centímetros
        mm: un milímetro|milímetros
        µm, μm: un micrómetro|micrómetros
        km²: un kilómetro cuadrado|kilómetros cuadrados
        m²: un metro cuadrado|metros cuadrados
        m³: un metro cúbico|metros cúbicos
        cm³: un centímetro cúbico|centímetros cúbicos
        kg: un kilogramo|kilogramos
        g: un gramo|gramos
        mg: un miligramo|miligramos
        µg, μg: un microgramo|microgramos
        t: una tonelada|toneladas
        l, L: un litro|litros
        ml, mL: un mililitro|mililitros
        h: una hora|horas
        min: un minuto|minutos
        s: un segundo|segundos
        ms: un milisegundo|milisegundos
        km/h: un kilómetro por hora|kilómetros por hora
        m/s: un metro por segundo|metros por segundo
        kWh: un kilovatio hora|kilovatios hora
        kcal: una kilocaloría|kilocalorías
        °C, ℃: un grado Celsius|grados Celsius
        °F, ℉: un grado Fahrenheit|grados Fahrenheit
        """
    ),
)  # fmt: skip

ITALIAN = Language(
    numbers="it",
    comma=True,
    point="virgola",
    dot="punto",
    minus="meno",
    to="a",
    per="al",
    over="su",
    at="chiocciola",
    slash="barra",
    and_="e",
    number="numero",
    about="circa",
    by="per",
    power="alla",
    squared="al quadrato",
    cubed="al cubo",
    degrees=("un grado", "gradi"),
    clock=("in punto", "e"),
    months=(
        *("gennaio", "febbraio", "marzo", "aprile", "maggio", "giugno", "luglio", "agosto"),
        *("settembre", "ottobre", "novembre", "dicembre"),
    ),
    fractions=(("un mezzo", "mezzi"), ("un terzo", "terzi"), ("un quarto", "quarti")),
    scales={"k": "mila", "m": "milioni di", "mln": "milioni di", "mld": "miliardi di"},
    signs={
        "+": "più", "×": "per", "·": "per", "⋅": "per", "*": "per", "÷": "diviso",
        "=": "uguale a", "≠": "diverso da", "≈": "circa uguale a", "≡": "identico a",
        "<": "minore di", ">": "maggiore di", "≤": "minore o uguale a", "≥": "maggiore o uguale a",
        "±": "più o meno", "%": "per cento", "‰": "per mille", "&": "e", "§": "paragrafo",
        "©": "copyright", "√": "radice quadrata di", "∞": "infinito", "∑": "somma di",
        "∫": "integrale di", "∂": "parziale", "∆": "delta", "∈": "appartiene a",
        "^": "alla", "¢": "centesimi", "′": "minuti", "″": "secondi",
    },
    money=_money(
        """
        $, US$, USD: un dollaro|dollari|un centesimo|centesimi
        €, EUR: un euro|euro|un centesimo|centesimi
        £, GBP: una sterlina|sterline|un penny|pence
        ¥, JPY: uno yen|yen
        CHF: un franco svizzero|franchi svizzeri|un centesimo|centesimi
        """
    ),
    units=_international("un")
    | _units(
        """
        km: un chilometro|chilometri
        m: un metro|metri
        cm: un centimetro|centimetri
        mm: un millimetro|millimetri
        µm, μm: un micrometro|micrometri
        km²: un chilometro quadrato|chilometri quadrati
        m²: un metro quadrato|metri quadrati
        m³: un metro cubo|metri cubi
        cm³: un centimetro cubo|centimetri cubi
        kg: un chilogrammo|chilogrammi
        g: un grammo|grammi
        mg: un milligrammo|milligrammi
        µg, μg: un microgrammo|microgrammi
        t: una tonnellata|tonnellate
        l, L: un litro|litri
        ml, mL: un millilitro|millilitri
        h: un'ora|ore
        min: un minuto|minuti
        s: un secondo|secondi
        ms: un millisecondo|millisecondi
        km/h: un chilometro all'ora|chilometri all'ora
        m/s: un metro al secondo|metri al secondo
        kWh: un chilowattora|chilowattora
        kcal: una chilocaloria|chilocalorie
        °C, ℃: un grado Celsius|gradi Celsius
        °F, ℉: un grado Fahrenheit|gradi Fahrenheit
        """
    ),
)  # fmt: skip

PORTUGUESE = Language(
    numbers="pt_BR",
    comma=True,
    point="vírgula",
    dot="ponto",
    minus="menos",
    to="a",
    per="por",
    over="sobre",
    at="arroba",
    slash="barra",
    and_="e",
    number="número",
    about="aproximadamente",
    by="por",
    power="elevado a",
    squared="ao quadrado",
    cubed="ao cubo",
    degrees=("um grau", "graus"),
    clock=("horas", "e"),
    months=(
        *("janeiro", "fevereiro", "março", "abril", "maio", "junho", "julho", "agosto"),
        *("setembro", "outubro", "novembro", "dezembro"),
    ),
    fractions=(("um meio", "meios"), ("um terço", "terços"), ("um quarto", "quartos")),
    scales={"k": "mil", "m": "milhões de", "mi": "milhões de", "bi": "bilhões de"},
    signs={
        "+": "mais", "×": "vezes", "·": "vezes", "⋅": "vezes", "*": "vezes", "÷": "dividido por",
        "=": "é igual a", "≠": "é diferente de", "≈": "é aproximadamente", "≡": "é idêntico a",
        "<": "menor que", ">": "maior que", "≤": "menor ou igual a", "≥": "maior ou igual a",
        "±": "mais ou menos", "%": "por cento", "‰": "por mil", "&": "e", "§": "seção",
        "©": "copyright", "√": "raiz quadrada de", "∞": "infinito", "∑": "soma de",
        "∫": "integral de", "∂": "parcial", "∆": "delta", "∈": "pertence a",
        "^": "elevado a", "¢": "centavos", "′": "minutos", "″": "segundos",
    },
    money=_money(
        """
        R$, BRL: um real|reais|um centavo|centavos
        $, US$, USD: um dólar|dólares|um centavo|centavos
        €, EUR: um euro|euros|um cêntimo|cêntimos
        £, GBP: uma libra|libras|um pêni|pence
        ¥, JPY: um iene|ienes
        """
    ),
    units=_international("um", "s")
    | _units(
        """
        km: um quilômetro|quilômetros
        m: um metro|metros
        cm: um centímetro|centímetros
        mm: um milímetro|milímetros
        µm, μm: um micrômetro|micrômetros
        km²: um quilômetro quadrado|quilômetros quadrados
        m²: um metro quadrado|metros quadrados
        m³: um metro cúbico|metros cúbicos
        cm³: um centímetro cúbico|centímetros cúbicos
        kg: um quilograma|quilogramas
        g: um grama|gramas
        mg: um miligrama|miligramas
        µg, μg: um micrograma|microgramas
        t: uma tonelada|toneladas
        l, L: um litro|litros
        ml, mL: um mililitro|mililitros
        h: uma hora|horas
        min: um minuto|minutos
        s: um segundo|segundos
        ms: um milissegundo|milissegundos
        km/h: um quilômetro por hora|quilômetros por hora
        m/s: um metro por segundo|metros por segundo
        kWh: um quilowatt-hora|quilowatts-hora
        kcal: uma quilocaloria|quilocalorias
        °C, ℃: um grau Celsius|graus Celsius
        °F, ℉: um grau Fahrenheit|graus Fahrenheit
        """
    ),
)  # fmt: skip

DUTCH = Language(
    numbers="nl",
    comma=True,
    point="komma",
    dot="punt",
    minus="min",
    to="tot",
    per="per",
    over="gedeeld door",
    at="apenstaartje",
    slash="schuine streep",
    and_="en",
    number="nummer",
    about="ongeveer",
    by="bij",
    power="tot de macht",
    squared="kwadraat",
    cubed="tot de derde",
    degrees=("één graad", "graden"),
    clock=("uur", "uur"),
    months=(
        *("januari", "februari", "maart", "april", "mei", "juni", "juli", "augustus"),
        *("september", "oktober", "november", "december"),
    ),
    fractions=(("een half", "halve"), ("een derde", "derde"), ("een kwart", "kwart")),
    scales={"k": "duizend", "m": "miljoen", "mln": "miljoen", "mld": "miljard"},
    signs={
        "+": "plus", "×": "keer", "·": "keer", "⋅": "keer", "*": "keer", "÷": "gedeeld door",
        "=": "is gelijk aan", "≠": "is niet gelijk aan", "≈": "is ongeveer",
        "≡": "is identiek aan", "<": "kleiner dan", ">": "groter dan",
        "≤": "kleiner dan of gelijk aan", "≥": "groter dan of gelijk aan", "±": "plus of min",
        "%": "procent", "‰": "promille", "&": "en", "§": "paragraaf", "©": "copyright",
        "√": "de wortel van", "∞": "oneindig", "∑": "de som van", "∫": "de integraal van",
        "∂": "partieel", "∆": "delta", "∈": "element van", "^": "tot de macht",
        "¢": "cent", "′": "minuten",
        "″": "seconden",
    },
    money=_money(
        """
        $, US$, USD: één dollar|dollar|één cent|cent
        €, EUR: één euro|euro|één cent|cent
        £, GBP: één pond|pond|één penny|pence
        ¥, JPY: één yen|yen
        """
    ),
    units=_international("één")
    | _units(
        """
        km: één kilometer|kilometer
        m: één meter|meter
        cm: één centimeter|centimeter
        mm: één millimeter|millimeter
        µm, μm: één micrometer|micrometer
        km²: één vierkante kilometer|vierkante kilometer
        m²: één vierkante meter|vierkante meter
        m³: één kubieke meter|kubieke meter
        cm³: één kubieke centimeter|kubieke centimeter
        kg: één kilogram|kilogram
        g: één gram|gram
        mg: één milligram|milligram
        µg, μg: één microgram|microgram
        l, L: één liter|liter
        ml, mL: één milliliter|milliliter
        min: één minuut|minuten
        s: één seconde|seconden
        ms: één milliseconde|milliseconden
        km/u, km/h: één kilometer per uur|kilometer per uur
        m/s: één meter per seconde|meter per seconde
        kWh: één kilowattuur|kilowattuur
        kcal: één kilocalorie|kilocalorieën
        °C, ℃: één graad Celsius|graden Celsius
        °F, ℉: één graad Fahrenheit|graden Fahrenheit
        """
    ),
)  # fmt: skip

LANGUAGES = {
    "en": ENGLISH,
    "de": GERMAN,
    "fr": FRENCH,
    "es": SPANISH,
    "it": ITALIAN,
    "pt": PORTUGUESE,
    "nl": DUTCH,
}
"""By code: what flite speaks (English), and what Pocket TTS has weights for."""
