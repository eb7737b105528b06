"""Random secrets and personal data as trajectories contain them, and harmless values that look similar."""

import base64
import json
import string
import uuid
from collections.abc import Callable, Sequence
from random import Random

_ALPHANUMERIC = string.ascii_letters + string.digits

Case = tuple[str, str]
"""A value and a text that contains it."""


def sensitive_cases(rng: Random, count: int) -> list[Case]:
    """Return ``count`` values that must be replaced, each in a message, a tool result or the JSON of a call."""
    return [_SENSITIVE[index % len(_SENSITIVE)](rng) for index in range(count)]


def harmless_cases(rng: Random, count: int) -> list[Case]:
    """Return ``count`` values that must be kept."""
    return [_HARMLESS[index % len(_HARMLESS)](rng) for index in range(count)]


def letters(rng: Random, size: int, alphabet: str = _ALPHANUMERIC) -> str:
    return "".join(rng.choices(alphabet, k=size))


def digits(rng: Random, size: int) -> str:
    return rng.choice("123456789") + letters(rng, size - 1, string.digits)


def _in_text(draw: Callable[[Random], str], *texts: str) -> Callable[[Random], Case]:
    def case(rng: Random) -> Case:
        value = draw(rng)
        return value, rng.choice(texts).replace("{}", value)

    return case


def _in_field(draw: Callable[[Random], str], *keys: str) -> Callable[[Random], Case]:
    def case(rng: Random) -> Case:
        value = draw(rng)
        return value, json.dumps({"order_id": "#W2378156", rng.choice(keys): value, "status": "open"})

    return case


def _key(prefix: str, size: int, alphabet: str = _ALPHANUMERIC) -> Callable[[Random], str]:
    return lambda rng: prefix + letters(rng, size - 1, alphabet) + digits(rng, 1)


def _email(rng: Random) -> str:
    local = rng.choice(("mia.li", "j_park", "Tom.White+shop", "rose", "a-silva", "o.ruiz")) + digits(rng, 2)
    return f"{local}@{rng.choice(('gmail.com', 'example.com', 'mail.acme.co.uk', 'uni-bonn.de'))}"


def _phone(rng: Random) -> str:
    area, line = digits(rng, 3).replace("1", "2"), digits(rng, 4)
    return rng.choice(
        (f"({area}) 555-{line}", f"{area}-555-{line}", f"+1 {area} 555 {line}", f"+44 20 7946 0{digits(rng, 3)}",
         f"+51 9{digits(rng, 8)}", f"+49 30 9{digits(rng, 7)}")
    )  # fmt: skip


def _plain_phone(rng: Random) -> str:
    return f"9{digits(rng, 8)}"


def card_number(rng: Random, prefix: str = "4", size: int = 16) -> str:
    number = prefix + letters(rng, size - 1 - len(prefix), string.digits)
    doubled = [int(digit) * (2 - index % 2) for index, digit in enumerate(reversed(number))]
    return number + str(-sum(digit - 9 * (digit > 9) for digit in doubled) % 10)


def _card(rng: Random) -> str:
    number = card_number(rng, rng.choice(("4", "51", "55")))
    return rng.choice((" ", "-")).join(number[start : start + 4] for start in range(0, 16, 4))


def iban(rng: Random) -> str:
    body = letters(rng, 18, string.digits)
    rest = int(f"{body}131400") % 97  # DE is 13 14
    return f"DE{98 - rest:02d}{body}"


def _ssn(rng: Random) -> str:
    return f"{rng.randrange(100, 600)}-{rng.randrange(10, 99)}-{digits(rng, 4)}"


def _birth(rng: Random) -> str:
    return f"{rng.randrange(1940, 2006)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}"


def _street(rng: Random) -> str:
    name = rng.choice(("Spruce", "Sunset", "Lakeview", "Old Mill", "King's", "Harbour"))
    return f"{rng.randrange(10, 999)} {name} {rng.choice(('Street', 'Avenue', 'Lane', 'Road', 'Drive'))}"


def _full_name(rng: Random) -> str:
    first = rng.choice(("Yusuf", "Amelia", "Mei", "Sofía", "Daiki", "Olivia", "Aarav", "Jürgen"))
    return f"{first} {rng.choice(('Kovacs', 'Rossi', 'Hernandez', 'Müller', 'Patel', 'Okafor', 'Nguyen'))}"


def _password(rng: Random) -> str:
    word = rng.choice(("Lantern", "pickle", "Walrus", "meadow"))
    return f"{word}{rng.choice('!#$%_')}{digits(rng, 4)}{letters(rng, 2)}"


def _jwt(rng: Random) -> str:
    parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": digits(rng, 8), "iat": int(digits(rng, 10))})
    head = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{head}.{letters(rng, 43)}"


def _private_key(rng: Random) -> Case:
    lines = [letters(rng, 64, _ALPHANUMERIC + "+/") for _ in range(3)]
    kind = rng.choice(("RSA PRIVATE KEY", "PRIVATE KEY", "OPENSSH PRIVATE KEY", "EC PRIVATE KEY"))
    return lines[1], "\n".join((f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----"))


def _wallet(rng: Random) -> str:
    return rng.choice(
        (f"0x{letters(rng, 40, string.hexdigits[:16])}", f"bc1q{letters(rng, 38, '023456789acdefghjkl')}")
    )


def _ip(rng: Random) -> str:
    return f"{rng.choice((81, 145, 213))}.{rng.randrange(1, 250)}.{rng.randrange(250)}.{rng.randrange(1, 250)}"


_SENSITIVE: Sequence[Callable[[Random], Case]] = (
    _in_text(_email, "My email is {}.", "Write to <{}>, please", "customer={} status=ok", "Found {} in the list"),
    _in_field(_email, "email", "customer_email", "contactEmail"),
    _in_text(_phone, "Call me at {}.", "Phone: {}", "{} is my number", "The account has {} on file."),
    _in_field(_phone, "phone", "phone_number", "mobileNumber", "telefono"),
    _in_text(_plain_phone, "My phone number is {}", "Mi teléfono es {}.", "mobile: {}", "whatsapp {}"),
    _in_field(_plain_phone, "telefono_contacto", "phone", "celular"),
    _in_text(_card, "Use the card {}.", "It was {} last time", "Number {} was declined"),
    _in_text(card_number, "Charge my visa {}", "credit card number: {}", "paid with {}"),
    _in_field(card_number, "card_number", "credit_card_number", "cardNumber"),
    _in_text(iban, "Refund to {} please", "IBAN {}"),
    _in_field(iban, "iban", "bank_account"),
    _in_text(_ssn, "My SSN is {}", "{} is the number on file"),
    _in_field(_ssn, "ssn", "social_security_number", "national_id"),
    _in_text(_birth, "date of birth: {}", "My DOB is {}.", "born: DOB {}, adult".replace("DOB ", "dob: ")),
    _in_field(_birth, "date_of_birth", "dob", "birthDate", "fecha_nacimiento"),
    _in_text(_street, "I live at {}.", "Ship it to {}, Austin", "Address: {}"),
    _in_field(_street, "address", "address1", "street", "shipping_address"),
    _in_field(lambda rng: digits(rng, 5), "zip", "postal_code", "zipCode"),
    _in_text(lambda rng: digits(rng, 5), "my zip code is {}", "ZIP: {}"),
    _in_text(
        _full_name, "My name is {}.", "Hi, my name's {}, I have a question", "Me llamo {}.", "Book it under the name {}"
    ),
    _in_text(_full_name, "Passenger name: {}", "Customer: ok\nGuest name: {}\nNights: 2", "cardholder name: {}"),
    _in_field(_full_name, "full_name", "customer_name", "passengerName", "persona_contacto", "guest_name"),
    _in_text(_password, "The password is {} for now.", "DB_PASSWORD={}", 'password: "{}"', "run it with --password {}"),
    _in_text(_password, "postgres://app:{}@db.internal:5432/main", "curl https://desk:{}@api.acme.com/v1"),
    _in_field(_password, "password", "db_password", "userPassword", "passwd"),
    _in_text(_ip, "Login from {} was blocked", "client ip: {}", "ssh root@{}"),
    _in_field(_ip, "ip", "ip_address", "client_ip"),
    _in_text(_wallet, "Send it to {}", "wallet {}"),
    _in_text(_key("AKIA", 16, string.ascii_uppercase + string.digits), "aws_access_key_id = {}", "key {} leaked"),
    _in_text(_key("", 40, _ALPHANUMERIC + "/"), "aws_secret_access_key={}", 'AWS_SECRET_KEY="{}"'),
    _in_text(_key("ghp_", 36), "Push with {}", "git clone https://{}@github.com/acme/shop"),
    _in_text(_key("github_pat_", 60), "token {}", "GH={}"),
    _in_text(_key("xoxb-2481632-", 24), "The bot posts with {}."),
    _in_text(_key("sk_" + "live_", 28), "Billing runs on {}.", "STRIPE={}"),
    _in_text(_key("sk-proj-", 48), "My API key is {}, use that.", "OPENAI_API_KEY={}"),
    _in_text(_key("sk-ant-api03-", 60), "export ANTHROPIC_API_KEY={}"),
    _in_text(_key("AIza", 35), "Maps: {}", "?key={}&q=x"),
    _in_text(_key("hf_", 34), "login --token {}", "HF_TOKEN={}"),
    _in_text(_key("SG." + "a" * 22 + ".", 43), "mail: {}"),
    _in_text(_key("glpat-", 20), "PRIVATE-TOKEN: {}"),
    _in_text(_key("", 32), "api_key: {}", "Authorization: Bearer {}", '"token": "{}", "x"', "client_secret={}"),
    _in_field(_key("", 32), "api_key", "accessToken", "client_secret", "token"),
    _in_field(lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)), "api_key", "refresh_token"),
    _in_text(_jwt, "Authorization: Bearer {}", "session {}", "cookie={}"),
    _private_key,
    _in_text(lambda rng: digits(rng, 6), "my pin code is {}", "verification code: {}"),
    _in_field(lambda rng: digits(rng, 3), "cvv", "card_security_code"),
)


def _camel(rng: Random) -> str:
    words = rng.sample(("Account", "Settings", "Ledger", "Order", "History", "Queue", "Report", "Access", "Token"), 4)
    return rng.choice(("get", "update", "is", "handle")) + "".join(words) + rng.choice(("", "V2", "ById", "64"))


def _snake(rng: Random) -> str:
    return "_".join(rng.sample(("find", "user", "id", "by", "email", "zip", "token", "key", "password", "reset"), 4))


def _hex(size: int) -> Callable[[Random], str]:
    return lambda rng: rng.randbytes(size).hex()


def _amount(rng: Random) -> str:
    large, cents = digits(rng, 5), rng.randrange(10, 99)
    forms = ("$%s.%d", "%s.%d EUR", "-%s.%d", "€%s,%d", "S/ %s.%d", "%s.%d off", "USD %s.%d")
    return rng.choice(forms) % (large, cents)


def _parcel(rng: Random) -> str:
    """Return a parcel number of sixteen digits with a wrong check digit for a card."""
    number = card_number(rng)
    return number[:-1] + str((int(number[-1]) + 1) % 10)


_CODE = (
    "password = form.cleaned_data['password1']",
    "def authenticate(user, password=None): return check_password(password, user.password_hash)",
    "token = next(tokens); secret = os.environ['APP_SECRET']",
    "api_key = config.get('api_key') or getpass('API key: ')",
    "assert client.headers['Authorization'] == f'Bearer {token}'",
    "x = a@b.T + c@d.sum(axis=1)",
    "@app.route('/users/<int:user_id>/orders')",
    "SELECT name, email FROM users WHERE zip = ? AND password_reset IS NULL",
    "class TokenBucketRateLimiter2(BaseLimiter): max_tokens = 4096",
    "pip install requests==2.31.0 && npm i react@18.2.0 @types/node@20.1.4",
    "git@github.com:acme/shop.git is at refs/heads/main",
    "for i in range(1000000): total += i * 3.14159265",
    "if len(sys.argv) != 2: sys.exit('usage: run.py FILE')",
    "diff --git a/src/auth.py b/src/auth.py\n@@ -120,7 +120,9 @@ def login(self):",
    "std::vector<int>::iterator it = m.begin(); a[::2]",
    'tokenizer.pad_token = "<|endoftext|>"; eos_token_id=50256',
    "curl -s https://api.acme.com/v1/items?page_token=next&limit=50",
    "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBa\n-----END CERTIFICATE-----",
    "color: #1e90ff; margin: 10px 20px 30px 40px",
    "Traceback (most recent call last):\n  File \"/srv/app.py\", line 1204, in <module>\nKeyError: 'password'",
    "version: 10.4.2.1 -> 10.4.3.0, driver 535.104.05",
    "export PATH=/usr/local/bin:$PATH PASSWORD_FILE=/run/secrets/db_password",
    "docker run -p 8080:80 registry.acme.com/shop/api:v1.2.3-4f5a6b7",
    "the token is invalid; the password is required; your secret is safe; name is Required",
    "{'type': 'object', 'properties': {'email': {'type': 'string'}, 'password': {'type': 'string'}}}",
)
_WORDS = (
    "Will it rain in May? The long way home is open, Mark it green.", "Annual plan, Li-ion battery, Maryland office",
    "Mechanical Keyboard", "Grace period ends in April", "Bank of America Tower", "New York to San Diego via ATL",
    "T5", "R7", "Mary@Long", "HD-5935", "E_LOCKED", "find_user_id_by_email", "Smart Thermostat, Apple HomeKit",
    "password policy", "token budget", "secret ballot", "returns@shop.com", "no-reply@acme.com", "support@acme.io",
    "iPhone 15 Pro Max 256GB", "Suite Deluxe", "1 TB Drive", "24 Hour Place", "gold member", "economy class",
    "Rose Gold", "Dr. Pepper 330 ml", "the Frank & Sons catalogue", "I am Feeling Lucky", "Monday 14:00-16:00",
    "MIA to JFK", "ok", "The name is Invalid.", "Sr. Engineer wanted",
)  # fmt: skip

_HARMLESS: Sequence[Callable[[Random], Case]] = (
    _in_text(lambda rng: f"#W{digits(rng, 7)}", "My order is {}.", "order {} shipped"),
    _in_text(
        lambda rng: digits(rng, 10), "item {} is in stock", "product_id={}", "new_item_ids: [{}]", "Item {} or none"
    ),
    _in_field(lambda rng: digits(rng, 10), "item_id", "product_id", "account"),
    _in_text(lambda rng: letters(rng, 6, string.ascii_uppercase + string.digits), "Reservation {}", "booking code {}"),
    _in_text(lambda rng: f"HAT{digits(rng, 3)}", "flight {} is on time", "Flight: {}"),
    _in_text(lambda rng: f"credit_card_{digits(rng, 7)}", "refund to {}", "Paid with {} in full"),
    _in_field(lambda rng: f"{rng.choice(('paypal', 'gift_card'))}_{digits(rng, 7)}", "payment_method_id", "payment_id"),
    _in_text(
        lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)), "Request id {}", "session={}", "trace {}"
    ),
    _in_field(lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)), "id", "request_id", "session_id"),
    _in_text(_hex(20), "commit {}", "Built from {}.", "HEAD is now at {}"),
    _in_text(_hex(32), "sha256:{}", "Checksum {}", "integrity {}"),
    _in_text(_hex(4), "image v1-{}", "commit {}"),
    _in_text(_hex(16), "md5 {}", 'etag: "{}"'),
    _in_text(_camel, "call {}() first", "see {} in the handbook", "{} failed"),
    _in_text(_snake, "use {}", "{}(x)", "tool {} is missing"),
    _in_text(_amount, "The total is {}.", "refund of {} issued", "balance: {}"),
    _in_text(_parcel, "Parcel {}", "tracking number {}"),
    _in_text(lambda rng: digits(rng, 12), "tracking {}", "ref. {}", "tracking_id: {}"),
    _in_text(
        lambda rng: f"2024-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}", "on {}", "{} 14:05", "date: {}"
    ),
    _in_text(lambda rng: f"2024-05-{rng.randrange(10, 29)}T0{rng.randrange(9)}:28:51", "at {}", "created {}"),
    _in_text(lambda rng: f"{rng.randrange(1, 28)}/{rng.randrange(1, 12)}/2024", "due {}", "from {} on"),
    _in_text(lambda rng: str(rng.randrange(1_700_000_000, 1_760_000_000)), "ts={}", "at {}", "expires: {}"),
    _in_text(lambda rng: f"{rng.randrange(20)}.{rng.randrange(20)}.{rng.randrange(20)}", "release {}", "requires >={}"),
    _in_text(
        lambda rng: f"10.{rng.randrange(255)}.{rng.randrange(255)}.{rng.randrange(1, 255)}", "from {}", "server {}"
    ),
    _in_text(lambda rng: f"{digits(rng, 3)} {digits(rng, 3)} {digits(rng, 4)}", "sizes {}", "rows: {}"),
    _in_text(lambda rng: f"-{rng.randrange(90)}.{digits(rng, 6)}", "lat {}", "loss {}"),
    _in_text(lambda rng: f"{digits(rng, 4)}-{digits(rng, 4)}", "part {}", "ISSN {}", "case {}"),
    _in_text(lambda rng: f"api-{digits(rng, 3)}", "Restart {} in testing.", "host {}"),
    _in_field(lambda rng: f"{rng.choice('TRFP')}{digits(rng, 1)}", "token", "code", "reason"),
    _in_field(
        lambda rng: rng.choice(("Mechanical Keyboard", "Filtro Hidráulico", "Suite", "Laptop Gamer")), "name", "nombre"
    ),
    _in_field(lambda rng: rng.choice(("Austin", "Lima", "TX", "USA", "Sullana")), "city", "state", "country"),
    *(_in_text(lambda rng, text=text: text, "{}") for text in _CODE),  # type: ignore[misc]
    *(_in_text(lambda rng, text=text: text, "{}") for text in _WORDS),  # type: ignore[misc]
)
