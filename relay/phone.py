"""Phone numbers in E.164, their national form, and countries as ISO 3166 alpha-2 codes."""

import re
from functools import lru_cache
from typing import Annotated

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberFormat, ValidationResult

from relay.caching import short_keys
from relay.validation import text_type

# The North American numbering plan: calling code 1, ten digits, the first of them 2 to 9.
_NANP = 1
_NANP_LENGTH = 10
_LONGEST = 64


def e164(number: str, region: str) -> str | None:
    """The number as +12125551212; None where no such number can exist.

    `region` is the country (alpha-2) that a number without `+` belongs to.
    """
    if is_plain_nanp(number) and _calling_code(region) == _NANP:
        return "+1" + number
    if len(number) > _LONGEST:
        return None
    if number.startswith(" "):
        # A `+` that was not escaped arrives as a space.
        international = _parse("+" + number[1:], region, valid=True)
        if international:
            return international
    return _parse(number, region)


def is_plain_nanp(number: str) -> bool:
    """Ten plain digits that need no parsing, which costs more than the rest of a callback."""
    return len(number) == _NANP_LENGTH and number.isascii() and number.isdigit() and number[0] > "1"


def country(number: str, region: str) -> str | None:
    """The alpha-2 code of an E.164 number's own country.

    If the number does not have it, it is `region`, unless that has another calling code.
    """
    if number.startswith("+1") and is_plain_nanp(number[2:]):
        own = _nanp_country(number[2:8])
    else:
        own = _country(number)
    return own or (region if number.startswith(f"+{_calling_code(region) or None}") else None)


def digits(text: str) -> str | None:
    """Only the digits: `(212) 555-1212` gives `2125551212`."""
    return re.sub(r"[^0-9]", "", text) or None


def national(text: str) -> str | None:
    """The national part of an E.164 number: `+12125551212` gives `2125551212`."""
    return _national_number(text) if text.startswith("+") else digits(text)


@short_keys(maxsize=4096)
def _national_number(text: str) -> str | None:
    try:
        return phonenumbers.national_significant_number(phonenumbers.parse(text))
    except NumberParseException:
        return digits(text)


@lru_cache(maxsize=512)
def _calling_code(region: str) -> int:
    return phonenumbers.country_code_for_region(region)


@lru_cache(maxsize=4096)
def _parse(number: str, region: str, *, valid: bool = False) -> str | None:
    try:
        parsed = phonenumbers.parse(number, region)
    except NumberParseException:
        return None
    possible = phonenumbers.is_possible_number_with_reason(parsed)
    if possible != ValidationResult.IS_POSSIBLE:
        return None
    if valid and not phonenumbers.is_valid_number(parsed):
        return None
    return phonenumbers.format_number(parsed, PhoneNumberFormat.E164)


@lru_cache(maxsize=16_384)
def _nanp_country(prefix: str) -> str | None:
    """The country of calling code 1 for numbers that begin with these six digits."""
    return _known(PhoneNumber(_NANP, int(prefix) * 10_000 + 2222))


@lru_cache(maxsize=4096)
def _country(number: str) -> str | None:
    return _known(phonenumbers.parse(number))


def _known(number: PhoneNumber) -> str | None:
    region = phonenumbers.region_code_for_number(number)
    return region if region and region.isalpha() else None


# alpha-3, then alpha-2.
_CODES = """
ABWAW AFGAF AGOAO AIAAI ALAAX ALBAL ANDAD AREAE ARGAR ARMAM ASMAS ATAAQ ATFTF ATGAG AUSAU AUTAT
AZEAZ BDIBI BELBE BENBJ BESBQ BFABF BGDBD BGRBG BHRBH BHSBS BIHBA BLMBL BLRBY BLZBZ BMUBM BOLBO
BRABR BRBBB BRNBN BTNBT BVTBV BWABW CAFCF CANCA CCKCC CHECH CHLCL CHNCN CIVCI CMRCM CODCD COGCG
COKCK COLCO COMKM CPVCV CRICR CUBCU CUWCW CXRCX CYMKY CYPCY CZECZ DEUDE DJIDJ DMADM DNKDK DOMDO
DZADZ ECUEC EGYEG ERIER ESHEH ESPES ESTEE ETHET FINFI FJIFJ FLKFK FRAFR FROFO FSMFM GABGA GBRGB
GEOGE GGYGG GHAGH GIBGI GINGN GLPGP GMBGM GNBGW GNQGQ GRCGR GRDGD GRLGL GTMGT GUFGF GUMGU GUYGY
HKGHK HMDHM HNDHN HRVHR HTIHT HUNHU IDNID IMNIM INDIN IOTIO IRLIE IRNIR IRQIQ ISLIS ISRIL ITAIT
JAMJM JEYJE JORJO JPNJP KAZKZ KENKE KGZKG KHMKH KIRKI KNAKN KORKR KWTKW LAOLA LBNLB LBRLR LBYLY
LCALC LIELI LKALK LSOLS LTULT LUXLU LVALV MACMO MAFMF MARMA MCOMC MDAMD MDGMG MDVMV MEXMX MHLMH
MKDMK MLIML MLTMT MMRMM MNEME MNGMN MNPMP MOZMZ MRTMR MSRMS MTQMQ MUSMU MWIMW MYSMY MYTYT NAMNA
NCLNC NERNE NFKNF NGANG NICNI NIUNU NLDNL NORNO NPLNP NRUNR NZLNZ OMNOM PAKPK PANPA PCNPN PERPE
PHLPH PLWPW PNGPG POLPL PRIPR PRKKP PRTPT PRYPY PSEPS PYFPF QATQA REURE ROURO RUSRU RWARW SAUSA
SDNSD SENSN SGPSG SGSGS SHNSH SJMSJ SLBSB SLESL SLVSV SMRSM SOMSO SPMPM SRBRS SSDSS STPST SURSR
SVKSK SVNSI SWESE SWZSZ SXMSX SYCSC SYRSY TCATC TCDTD TGOTG THATH TJKTJ TKLTK TKMTM TLSTL TONTO
TTOTT TUNTN TURTR TUVTV TWNTW TZATZ UGAUG UKRUA UMIUM URYUY USAUS UZBUZ VATVA VCTVC VENVE VGBVG
VIRVI VNMVN VUTVU WLFWF WSMWS XKXXK YEMYE ZAFZA ZMBZM ZWEZW
"""

_NAMES = """
UNITEDSTATES US, UNITEDSTATESOFAMERICA US, AMERICA US, CANADA CA, MEXICO MX, PUERTORICO PR,
UK GB, UNITEDKINGDOM GB, GREATBRITAIN GB, BRITAIN GB, ENGLAND GB, SCOTLAND GB, WALES GB,
NORTHERNIRELAND GB, IRELAND IE, AUSTRALIA AU, NEWZEALAND NZ, SOUTHAFRICA ZA, INDIA IN,
GERMANY DE, FRANCE FR, SPAIN ES, PORTUGAL PT, ITALY IT, NETHERLANDS NL, BELGIUM BE, LUXEMBOURG LU,
SWITZERLAND CH, AUSTRIA AT, DENMARK DK, SWEDEN SE, NORWAY NO, FINLAND FI, ICELAND IS, POLAND PL,
CZECHREPUBLIC CZ, CZECHIA CZ, SLOVAKIA SK, HUNGARY HU, ROMANIA RO, BULGARIA BG, GREECE GR,
TURKEY TR, ISRAEL IL, RUSSIA RU, UKRAINE UA, CHINA CN, HONGKONG HK, TAIWAN TW, JAPAN JP,
SOUTHKOREA KR, KOREA KR, SINGAPORE SG, MALAYSIA MY, INDONESIA ID, PHILIPPINES PH, THAILAND TH,
VIETNAM VN, PAKISTAN PK, BANGLADESH BD, SRILANKA LK, UNITEDARABEMIRATES AE, UAE AE,
SAUDIARABIA SA, EGYPT EG, MOROCCO MA, NIGERIA NG, KENYA KE, GHANA GH, BRAZIL BR, ARGENTINA AR,
CHILE CL, COLOMBIA CO, PERU PE, VENEZUELA VE, ECUADOR EC, GUATEMALA GT, COSTARICA CR, PANAMA PA,
DOMINICANREPUBLIC DO, JAMAICA JM, BAHAMAS BS, BARBADOS BB, TRINIDADANDTOBAGO TT, BERMUDA BM
"""

_ALPHA_2 = {code[:3]: code[3:] for code in _CODES.split()}
_ALPHA_2 |= {code: code for code in _ALPHA_2.values()}
_ALPHA_2 |= dict(entry.split() for entry in _NAMES.split(","))


LONGEST_COUNTRY = 200
"""Characters of what may be a country, with all that surrounds it."""


@short_keys(maxsize=1024)
def alpha_2(written: str) -> str | None:
    """`US` for US, USA, u.s., United States; None for an unknown country."""
    if len(written) > LONGEST_COUNTRY:
        return None
    return _ALPHA_2.get("".join(letter for letter in written if letter.isalpha()).upper())


def _parse_country(text: str) -> str:
    if code := alpha_2(text):
        return code
    raise ValueError("should be a country's code such as US")


Country = Annotated[str, *text_type(_parse_country, "country", {})]
"""An option that is a country, as in `US` or `USA`."""
