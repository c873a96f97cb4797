"""Whether digits are a number that identifies a person: dates, check digits, prefixes."""

import re

_RESIDENT_WEIGHTS = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
_CENTURY = {
    "9": 1800,
    "0": 1800,
    "1": 1900,
    "2": 1900,
    "5": 1900,
    "6": 1900,
    "3": 2000,
    "4": 2000,
    "7": 2000,
    "8": 2000,
}
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_CARD = re.compile(r"(?:4|5[1-5]|2[2-7]|3[5-8]|6|9)")
_AREA = re.compile(r"0(?:2|3[1-3]|4[1-4]|5[1-5]|6[1-4])")


def is_birth_date(digits: str) -> bool:
    """Whether seven digits are YYMMDD and a digit for century and sex, of somebody who can be alive or registered."""
    month, day = int(digits[2:4]), int(digits[4:6])
    year = _CENTURY[digits[6]] + int(digits[:2])
    return 1 <= month <= 12 and 1 <= day <= _DAYS[month - 1] and 1880 <= year <= 2035


def is_alien(digits: str) -> bool:
    """Whether the 13 digits are of a foreigner: 5 to 8 behind the date of birth."""
    return digits[6] in "5678"


def has_check_digit(digits: str) -> bool:
    """Whether the last of 13 digits is the check digit of a resident or alien registration number. Numbers that were
    given since October 2020 are random behind the digit of sex, so a wrong check digit excludes nothing."""
    weighted = sum(int(digit) * weight for digit, weight in zip(digits, _RESIDENT_WEIGHTS, strict=False))
    return int(digits[12]) == ((13 if is_alien(digits) else 11) - weighted % 11) % 10


def is_card(digits: str) -> bool:
    """Whether 15 or 16 digits begin as a payment card does and pass Luhn's check (ISO/IEC 7812-1)."""
    if len(set(digits)) == 1 or not _CARD.match(digits) or (len(digits) == 15) != (digits[:2] in ("34", "37")):
        return False
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (doubled + sum(map(int, digits[-1::-2]))) % 10 == 0


def is_mobile(digits: str) -> bool:
    """Whether the digits, national, are of a mobile phone: 010 with 8 digits, older prefixes with 7 or 8."""
    return digits[:3] in ("010", "011", "016", "017", "018", "019") and (
        len(digits) == 11 or (len(digits) == 10 and digits[2] != "0")
    )


def is_landline(digits: str) -> bool:
    """Whether the digits, national, are of a subscriber with an area code or of internet telephony (070)."""
    if digits.startswith("070"):
        return len(digits) == 11
    area = _AREA.match(digits)
    return area is not None and len(digits) - area.end() in (7, 8) and digits[area.end()] not in "01"
