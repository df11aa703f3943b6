"""The order in which readers write the names of people: given name or family name first."""

import re

_HUNGARIAN = "hun"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_KATAKANA = re.compile(r"[\u30a0-\u30ff・\s]+")
_EAST_ASIAN = re.compile(
    r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\uac00-\ud7a3\u3040-\u30ff々〆・\s]+"
)
_KATAKANA_MIDDLE_DOT = "・"

# A translation into Hungarian names its author in the author's own order, so the language of a title alone
# does not tell. These are the most frequent given names.
_HUNGARIAN_GIVEN_NAMES = _words(
    "albert alexandra alfréd aliz andor andrea andrás anett anikó anita anna annamária antal antónia"
    " aranka attila aurél balázs barbara barna bence bendegúz benedek benő bernadett bertalan blanka"
    " boglárka boldizsár borbála botond brigitta bálint béla cecília csaba csenge csilla csongor dezső"
    " dorka dorottya dániel dávid dénes dóra edina edit elek elemér emese emil emma endre enikő erika ernő"
    " ervin erzsébet eszter fanni ferenc flóra frigyes gellért gergely gergő gizella gyula gyöngyi györgy"
    " györgyi győző gábor géza hajnalka hanna henrik hilda hunor ibolya ildikó ilona imre irma irén istván"
    " iván izabella jenő johanna jolán judit julianna jános jázmin józsef júlia kamilla karola kata"
    " katalin kati kincső kinga klára kornél kornélia kristóf krisztina krisztián kálmán károly lajos"
    " lenke levente lilla loránd luca lászló lívia lóránt lőrinc magda magdolna margit mariann marianna"
    " melinda mihály miklós milán mirtill mária márta márton mátyás máté mónika mór nelli nikolett noémi"
    " nándor nóra olga olivér orsolya ottó panna patrik petra piroska pál pálma péter rebeka rezső rita"
    " roland rudolf réka róbert rózsa rózsi sarolta sebestyén soma szabina szabolcs szilveszter szilvia"
    " szilárd szonja sándor sára tamás tekla teréz terézia tibor tihamér timea tivadar tímea tóbias tünde"
    " ubul valéria vencel vendel vera veronika viktor viktória vilma vilmos vince virág vivien zalán zita"
    " zoltán zoé zsanett zsigmond zsolt zsombor zsuzsa zsuzsanna zsófia ádám ágnes ágota ákos árpád árvid"
    " éva ödön örs"
)


def join_name(family_name: str, given_name: str, *, language: str | None = None) -> str:
    """Return a person's name as its readers write it.

    Names in Chinese, Japanese and Korean characters have the family name first, without a blank,
    except those of foreigners in katakana. Hungarian names have it first in Hungarian titles.

    Args:
        family_name: Family name, or the only name.
        given_name: Given names; may be empty.
        language: ISO 639-2 code of the title that the person contributed to.
    """
    if not given_name or not family_name:
        return family_name or given_name
    both = family_name + given_name
    if _KATAKANA.fullmatch(both):
        return f"{given_name}{_KATAKANA_MIDDLE_DOT}{family_name}"
    if _EAST_ASIAN.fullmatch(both):
        return both
    if language == _HUNGARIAN and given_name.split()[0].casefold() in _HUNGARIAN_GIVEN_NAMES:
        return f"{family_name} {given_name}"
    return f"{given_name} {family_name}"
