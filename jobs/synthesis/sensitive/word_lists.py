"""Word lists for finding sensitive data and for building placeholders, and a helper for case-insensitive search.

The other modules of this package use them. All words to match are in lower case, in English and Spanish.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def lower_same_length(text: str) -> str:
    """Return ``text`` in lower case, with the same number of characters in every script.

    Offsets in the result are therefore valid in ``text`` too. A capital letter whose lower case has two characters,
    such as the Turkish dotted I, stays as it is.
    """
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(small if len(small := char.lower()) == 1 else char for char in text)


ENGLISH_MONTHS = _words("January February March April May June July August September October November December")
SPANISH_MONTHS = _words("enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre")

PERSON_WORDS = frozenset(
    _words(
        """
    account_holder alumno applicant attendee beneficiary buyer caller candidate cardholder client cliente
    contact contacto customer destinatario driver empleado employee estudiante friend guest holder huesped
    member miembro paciente parent participant pasajero passenger patient person persona profile recipient
    referee resident student subscriber teacher traveler traveller user usuario visitor
    """
    )
)
"""Words for a person: the field ``name`` of a ``customer`` holds the name of a person."""

METADATA_WORDS = frozenset(
    _words(
        """
    changed count description domain enabled expiration expires expiry field fields format hash hashed help id
    ids label length masked method pattern placeholder policy preference preferences required reset status
    template text title type updated uri url valid verified verify version
    """
    )
)
"""Last words of field names that describe another field, such as ``email_verified``, and hold no sensitive value."""

ORGANIZATION_WORDS = frozenset(
    _words(
        """
    a. admin administrator agent airlines airport and anonymous bank bar cafe clinic clinica club co college
    company consulting corp corporation customer department dept eirl farmacia foods for foundation gmbh group
    guest gym hospital hostal hostel hotel inc industries inn institute international limited llc llp lodge
    logistics ltd ltda market mart ministry none null of office partners pharmacy plaza plc resort restaurant
    restaurante sa saa sac school services shop sl solutions srl store string studio supermarket support
    system systems team test the tienda trading universidad university unknown user
    """
    )
)
"""Words that occur in names of organizations or roles. A name that has one of them is not a person's name."""

ROLE_MAILBOXES = frozenset(
    _words(
        """
    abuse accounts admin administrator alerts atencion billing booking bookings care careers contact contacto
    customercare customerservice daemon donotreply facturacion facturas feedback finance git hello help
    helpdesk hola hr info invoices jobs legal mailer marketing news newsletter no-reply noreply notifications
    office orders pagos payments pedidos postmaster press privacy reply reservas reservations returns root
    sales security service services soporte support team ventas webmaster
    """
    )
)
"""Local parts of email addresses that belong to a role, not to a person."""

NON_PASSWORDS = frozenset(
    _words(
        """
    changeme correct empty expired false hidden incorrect invalid missing n/a no none null optional pass
    passwd password pwd redacted required reset secret set string text token true unknown unset valid wrong
    yes
    """
    )
)
"""Words that occur in the place of a password and are none."""

TOP_LEVEL_DOMAINS = frozenset(
    _words(
        """
    academy agency app art biz blog bot cat church city clinic cloud club coffee com community company coop
    corp design dev edu email energy engineering example finance foundation fun fund global gov group guru
    health help home hotel house info ink institute insurance int intern internal international invalid jobs
    lan law legal life live local localhost love ltd management market marketing media mil mobi money museum
    name net network news ngo one online org page partners pet photo photography plus press pro productions
    pub rent repair restaurant rocks run sale school science security services shop site social software
    solutions space store studio style support systems team tech technology test tips today tools top tours
    town trade training travel university vip website wiki work works world wtf xyz zone
    """
    )
)
"""Top-level domains of three or more letters. After an ``@``, another ending such as ``.sum`` is mostly code."""

NON_NAME_WORDS = frozenset(
    _words(
        """
    agent american analyst and architect assistant associate british but buyer calling chinese consultant
    correct customer data designer developer director empty engineer english for french from german here i if
    incorrect invalid it italian japanese manager marketing missing my none not null office optional our
    please portuguese product representative required sales scientist service software spanish specialist
    support team that the there this trying unknown valid we what when windows with you your
    """
    )
)
"""Words that may follow ``I am`` or ``my name is`` and are no name."""

NAME_PARTICLES = frozenset(
    _words(
        """
    al bin da das de del den der di do doctor don dos doña dr dra du e el ibn la las le los mr mrs ms prof sr sra
    srta ten ter van von y
    """
    )
)
"""Particles and titles that stand beside the words of a name and do not identify a person."""

AMBIGUOUS_NAME_WORDS = frozenset(
    _words(
        """
    abby alba amber an angel april arch art as ash at august autumn baker ball bank banks bar barber be bear
    beau bell berry best bill bishop black bloom blue bond book books boss bow branch brand bridge bright
    brook brooks brown bush butler by candy carol carter case cash castle chan chance chase cherry chief china
    chip christian church city clay cliff cloud coach cook cooper coral corn count court cross crystal daisy
    dale dawn day deal dean del diamond do dollar dove drew duke earl early east eden english eve ever faith
    farmer fay field fields finch fish fisher flower flowers ford forest fox france frank free french frost
    gale garden gates gay gene gentry gift glass glen go gold golden good grace grant gray green grey grove
    guy hall hand hardy harmony hart haven hay hazel he head heath heather henry hi hill hills holiday hood
    hope house hunt hunter in iris is it ivy jack jade jasmine jay jean jet jewel job john jordan joy judge
    july june kay keen king knight lake lamb lane lark law lawn leaf lee lily lime lin link list little lock
    london long love low luck luna ma major mark marks marsh marshall mason master max may me meadow melody
    mercy merit merry milan miles miller mills min mine mint money moon moore more morning moss mountain my
    nice no noble noel north oak ocean of olive on or page paris park parks pat patience paul pearl penny
    pepper perry pike piper place pool pope porter post pound power price prince prior rain ranger ray read
    red reed rich rider ring river rivers road robin rock rocky rod roman rose ruby rush sage sales sand sandy
    savage scot scott sea sergeant sharp shepherd short silver sky small smart smith snow so son song south
    spring star stark starr steel stern still stone storm story street strong sue summer sun sunny sweet swift
    sydney tab tai tan taylor temple thorn tiger tim to tom tony town trace tree trinity tucker turner up us
    valentine victor victoria viola violet wade walker wall ward waters way we weaver webb week weeks welch
    wells west white wild will wills winter wise wolf wong wood woods worth wright yang york you young
    """
    )
)
"""Names that are also ordinary words or places."""

STREET_WORDS = frozenset(
    _words(
        """
    alley and apartment apt av avda ave avenida avenue block bloque blvd boulevard box building calle camino
    carretera casa circle close court crescent ct de del departamento depto dpto dr drive east el este floor
    highway house hwy industrial int interior jiron jirón jr km la lane las ln los lot lote lower mz new norte
    north oeste of oficina old p.o parkway paseo piso pkwy pl place plaza po rd road route row rue rural south
    square st ste street suite sur terrace the trail unit upper via way west y zona
    """
    )
)
"""Words of addresses that tell the kind of street or room and not which one. Placeholders keep them."""

PLACEHOLDER_GIVEN_NAMES = _words(
    """
    Ada Alma Anton Astrid Boris Bruno Camille Celia Clara Cora Dana Dario Delia Edgar Edith Elias Elsa Erik
    Fiona Flora Gerda Greta Hanna Hector Helga Hugo Ida Igor Ines Ingrid Irma Jonas Karin Klara Lena Leon
    Lidia Livia Lorenz Magda Marta Milo Mina Nadia Nils Nora Olga Oscar Otto Petra Ralph Rita Rolf Ruben Selma
    Simon Stella Tessa Theo Tilda Ulla Vera Viktor Wanda
    """
)
"""Given names that replace other given names."""

PLACEHOLDER_FAMILY_NAMES = _words(
    """
    Adler Albrecht Alvarez Arnold Barlow Becker Benson Berger Brandt Carver Castro Conrad Dalton Decker Duarte
    Ekman Ellis Engel Farrell Fischer Forsberg Garner Gibson Hagen Haller Hansen Harmon Heller Holm Ibarra
    Jansen Keller Klein Koch Kramer Larsen Lehmann Lindgren Lorca Maurer Mercer Moreno Nolan Novak Nyberg
    Olsen Ortega Palmer Pereira Quinn Ramsey Reuter Rossi Sander Santos Schaefer Sommer Strand Tanner Torres
    Vogel Wagner Weber Winkler
    """
)
"""Family names that replace other family names."""

PLACEHOLDER_STREETS = _words(
    """
    Alder Aspen Beech Birch Cedar Chestnut Clover Cypress Elder Fern Hawthorn Hazel Heather Holly Ivy Juniper
    Larch Laurel Linden Magnolia Maple Mulberry Myrtle Poplar Rowan Sorrel Spruce Sumac Sycamore Thistle
    Willow Yew
    """
)
"""Street names that replace other street names."""
