"""Class names: one form for comparing, and whether they are those of Kinetics-400 or Moments in Time."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import logging
import unicodedata
from collections.abc import Iterable, Mapping

from pipeline.errors import UserError

log = logging.getLogger(__name__)


def comparable(name: str) -> str:
    """``name`` without what lists spell differently: case, underscores for spaces, Unicode form."""
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split()).casefold()


def fingerprint(name: str) -> str:
    """8 hex digits that tell the official names from others."""
    return hashlib.sha256(comparable(name).encode()).hexdigest()[:8]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfficialNames:
    """The fingerprints of a data set's class names; the names themselves belong to its publisher."""

    data_set: str
    fingerprints: frozenset[str]

    def check(self, first_seen: Mapping[str, str]) -> None:
        """Compare the class names of a list with the official ones; absent ones are counted in a warning.

        Args:
            first_seen: name to ``FILE:LINE``.

        Raises:
            UserError: a name is not official, with its place and the nearest official one of the list.
        """
        unknown = [name for name in first_seen if fingerprint(name) not in self.fingerprints]
        known = [name for name in first_seen if fingerprint(name) in self.fingerprints]
        total = len(self.fingerprints)
        if unknown:
            name = unknown[0]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            raise UserError(
                f"{first_seen[name]}: class {name!r} is not one of the {total} of {self.data_set}"
                + (f" (nor {len(unknown) - 1} more)" if len(unknown) > 1 else "")
                + (f"; did you mean {near[0]!r}?" if near else ":")
                + " correct it, or accept names of your own with --any-classes"
            )
        if len(known) < total:
            log.warning(
                "%d of the %d classes of %s are absent; labels count the %d that are there",
                total - len(known),
                total,
                self.data_set,
                len(known),
            )


def _official(data_set: str, fingerprints: str) -> OfficialNames:
    return OfficialNames(data_set=data_set, fingerprints=frozenset(fingerprints.split()))


def one_spelling(first_seen: Mapping[str, str]) -> None:
    """UserError if two names differ only in spelling (``air drumming``, ``air_drumming``)."""
    spelled: dict[str, str] = {}
    for name, where in first_seen.items():
        other = spelled.setdefault(comparable(name), name)
        if other != name:
            raise UserError(f"{where}: class {name!r} is spelled {other!r} in {first_seen[other]}: use one spelling")


def in_order(names: Iterable[str]) -> list[str]:
    """Names sorted as the official Kinetics lists are: by their characters, an underscore counting as a space."""
    return sorted(names, key=lambda name: (name.replace("_", " "), name))


KINETICS_400 = _official(
    "Kinetics-400",
    """
        00858033 018a1786 01f20190 01fbd03b 0283562c 02e3a172 02e91922 0378b94c 03b040c1 0457bdff
    05206092 058fe66c 08090341 0c56d1a8 0eb1378e     0f1e1209 0f65c5f8 0f6c3096 0f7ee524 0fb5cc66
    1005563e 10080060 102a9e57 10455c09 1163aeda 11c7bc5e 1204e635 1207b54a 124b9e07 127209b9
    13e73917 147d10e2 15a7b214 15af8950 15d12e53 15f3e106 162f96e3 169b5c05 16b20c40 17f7941b
    1875442b 18daeb79 19766b10 19fba398 1b52cbcd     1bbf4b2b 1c073ab0 1e082cd3 1e10b9bb 20140218
    21071f28 2167395a 21c9067e 2290a74c 22d8cdf8 22eaffe6 231123f2 25133ed6 263a10b9 27f32826
    2a09c608 2a7018de 2af9a6ea 2bfce138 2d68d12d 2eb86857 2ed385a0 31777542 32f57a05 3612420d
    385c102a 398f182d 399262e6 39f2b3ac 3a19dea0     3b2f198e 3bf03834 3e03a206 3f1d0251 3f490621
    3f901602 40d9c056 418e9662 437bf287 43e24d00 4493f0b9 44fe7d3b 452836ba 453026dc 45cf6ced
    45df2bea 4648dd31 46b1a789 46dcd944 472591f9 472de632 478158ba 4938f929 494b98a7 49a331ab
    49dbfb67 4a9c86c9 4b05aa91 4b7de830 4c449d75     4dd6d9e2 4dfb9ff3 4dfed509 4ebdc3b1 4f92abbb
    4fa0ea50 50221eac 50b79f3d 50db5be9 513b7827 515974a4 52220935 526304c4 52edeccc 5345a83d
    542e46a8 548eb495 54dcf10c 55512c48 56b44ef7 56bebfff 5768759d 58aa32ac 591eed74 5aa3a27f
    5bcc4c50 5d30f231 5e6309fd 5edf0ee0 5efb69a8     5f4b5cf5 5f847958 5fa4babc 5fd1dcf8 603623cf
    61d76bc0 626df446 634846ac 64989d1a 64bfb224 64c760e3 64ceeb82 64d8c92d 65d3640f 66a3efca
    678d9e0a 68252f58 685053a9 6860697f 68963b21 6902f414 6a855dc3 6d327258 6dbff6dd 6e355234
    70fadef3 71132fbb 71193e1b 71393d4d 71940452     72fa69c0 7333952e 7355f1a3 73d93ff6 750dd7f6
    755faec2 75dd1040 76316785 772b1793 776eff80 77ca2579 7845bdc4 79ab796a 7a6a7b1d 7aa68a88
    7b5bad72 7cca18ed 7d9cb0e5 7dd4db45 7e287869 7eff9ebd 7f458e54 7f6ef84d 7f70a022 7fefcbce
    80670b54 806fc0ad 8237647f 825ab0c2 83071b97     832e8f2c 833077f1 833be0c2 843b80c7 844e4da3
    84ceb6bc 84e02173 8579b51e 85b38744 85db8446 86d3dbd5 86f919cc 874125e8 8863b3b5 8a3de34b
    8af6014f 8cc8b5db 8ce17c16 8d24b611 8d2d90b2 8d546796 8f04e3c0 904a9d3a 90504b69 9129947f
    918021ef 91d8b200 925cc39d 92c366ff 92fe86ae     93481e6d 94d7cd88 95afc659 96b1acb4 96b4637c
    96bf904b 97472e12 978fdc53 97e94e67 9a360a2f 9a74dcc5 9b107656 9b4717c2 9b8d6f98 9d6d5a71
    9e021238 9e05b1d9 9e398462 9f4de54e 9f700627 9fb78855 9feb591a a047f6e2 a08dc0d6 a12cc231
    a2b0493c a32cc8e9 a435c663 a511094d a57677c4     a57d3190 a5be0454 a76b0bcf a8696686 a8989617
    a8cb6290 aa2bca86 ab5284c7 ab7a7b58 abbe4ac2 ae6cf77a ae754114 aeb188f9 aed14f9f b02e43bd
    b0bf0852 b1e098b5 b2488633 b270e915 b3438200 b390f3ea b3f99f92 b41b9746 b451d79c b530a003
    b5f8818a b6a1ece6 b6abe2ec b7089841 b761bcaf     b765f5b7 b7f9c244 b85553da b956b14c b95e44a3
    ba646041 ba73f655 bbd30b20 bc96a756 becdc7c9 bfbb25c5 c080e426 c09fb0f0 c0cd4d72 c11ed91b
    c131bc96 c43b123c c496818e c58eaab2 c5f51091 c6ac9bcc c6dcb437 c761204b c7b0c610 c7e50527
    c7f08bb5 c8045c3c c818f85f c99a9e2f ca3142d5     ca6dc464 cb77d7df cbc16338 ce10e2f1 ce69d940
    ceb78931 cf6cf79b cfbecab0 d0112b03 d0ab2dbd d1633d67 d1a2a4e2 d1a93dfa d2c03fda d2d18344
    d3065a09 d3bca4d9 d5bdbc6c d5bf851c d5ffebae d719ffed d7901be6 d8885ccc da22a064 da2ef53c
    db89a15c dcd0ff19 dfc8d0dd e06e420f e120bbc2     e1641940 e18961b5 e3dfff78 e3e55bd6 e4450a7e
    e44770c1 e46246e0 e50012a4 e57e432a e5d58b78 e623586d e6b1f694 e6c2edce e6f0a1fb e7cb502e
    e7fe8478 e94d1a2b e96f2172 e9cde33d ea6e189f eb15b639 ec43ed8c ee591e34 ee8222fa ee871105
    ef52ef1f efca7c58 f04c9988 f081e6d6 f1563370     f1b76cbd f29decef f30c0144 f39b530f f3ccf3a9
    f40230a3 f42ece30 f4a2dad4 f5767156 f593b825 f5e835c3 f7f6abfa f7fc65c4 f823da60 f9faf378
    fad0ce76 fb43d8e4 fb65567f fbde23db fdb855ef fdec3017 fe793856 feb5f386 fefe68de ff9059ad
    """,
)
MOMENTS_339 = _official(
    "Moments in Time",
    """
        0021e046 00c68b3c 011d83ee 01e3c989 01f542f9 0292a279 0323eeb8 033a6782 035d187b 036592ef
    037d7d46 03890430 0523b0ae 052b69eb 06f5aa74     0754bed5 0ab0321c 0b10367a 0db79e63 0e517996
    0f217f54 114049bf 117b405e 1180412a 14143a00 1645d223 19dcbb52 1a1d672e 1ba1a972 1c1d6519
    1d630cb7 1e048982 1ec0fe14 1ecf8bd1 201fce8d 21177169 21527445 21c1f31f 23112938 23daf2c3
    23f05589 24f4755e 27570476 27f32826 2a33ce68     2a7018de 2ab62cfe 2acb87c6 2b3fdf05 2ca7069a
    2ccdfe32 2d5c39aa 2e10adcd 2f61eacd 310e8b29 311dedbf 31fd3a1a 34732698 349cffd6 35d19710
    3612420d 36fe61e3 3743b29d 379952d2 37bb4c5a 37ff2058 38afe010 38dbf259 392222f9 39b61df6
    3a5e1a1e 3bf03834 3c846a70 3c9988f4 3d7304f4     3e0f9f03 3e802ac2 3f901602 403db04b 409ee32d
    40e1972d 418ad693 41d37e3b 435c149c 4460e86b 4505b3c1 4527031e 472de632 47bd27ca 48046046
    48556459 486439b8 494b98a7 49674618 49a331ab 49fa0b30 4a1acb3f 4b6fb6dd 4b80ff08 4c449d75
    4cc10bf8 4cea37fa 4d1cd7f4 4dc69fae 4e34fa52     50221eac 5102668a 51458bde 51652912 5167e967
    51c0ae2f 5221409b 526f9816 53ef91b4 546f04bb 55279e0b 558413b7 56169468 561ab7b1 56bbbb0a
    57428a96 577059d0 57fc4c6b 58aa32ac 58d805bc 59dbf36d 5a9cf40c 5ad3aa07 5b38d0b8 60d0f027
    63fbb886 65c10ef3 660214ee 665c429f 665e4b93     668b2202 668e08e9 672bbdcd 67eaea57 6868877a
    68d6641f 6912bc10 6a74a570 6ac8a2e6 6b45d217 6bbed1b5 6c42dcba 6c58ab1e 6e355234 6ead9ba2
    6ec62f1a 6f49db68 6f9a4880 71132fbb 71669691 716a51fb 71940452 73413e38 73aa2020 7441d8c9
    75a42e94 75d8c870 77f9dc3e 7a4c2791 7aab06cd     7b661370 7c31ce7a 7c6e059c 7d0df491 7e59a2d0
    7e6b78c3 7e883b5d 7fc4b531 804f9a4d 82226049 824d422d 82bd81ea 833be0c2 8469d423 84ee7be4
    85e8b79a 8636c947 86bce9d0 875c34e6 87713743 88319952 895c2cf4 8a3d4c0e 8accd647 8bbae3d5
    8ce17c16 8d546796 8e69c4ac 8ea55bda 908aa2ab     90b34965 913b0eb3 92b70c1b 92bf37e4 92fe86ae
    93481e6d 94387524 962df959 9736ae5e 97aefe70 9914f82b 991540dc 99efbd4f 9d9beca2 9ea90488
    9f3db10c 9f429383 a00a8309 a063c2db a1452681 a1f95e4f a336147c a3f6b9d2 a54e5638 a57677c4
    a646bc1c a673476a a6e67fd0 a757db3a a83c4acb     a986248f a9f6df90 a9fe0e45 ac98b3e4 adbb073d
    af1c1b81 afbfaf8c b0120ab4 b02e43bd b18430e0 b47fc0f1 b4a070a2 b4bae265 b5d6065a b7206540
    b78cce73 b8262e86 b8470723 b8aa64f3 b9745780 ba0f00cb bb202a0f bcd06ac9 bdefc259 bec17829
    bf5ea2f2 c071cf5f c1e6de2c c333f99a c37b9c79     c41faeb3 c48eed59 c6268a8a c62da677 c653532f
    c6892598 c71201ee c72dee7f c734fe36 c86f9d6a c919543f c963027c ca214ea7 cab3163e cc31708d
    cca0151a ce4936c3 cfab3aad d0112b03 d1a93dfa d201d8c5 d25a4619 d28d8695 d3df996d d40ecb63
    d4a287ed d50a1885 d61e2b8a d65d9a82 d6709cd4     d70afca6 d791c65b d7b5e4cd d8e66c7c d9460db1
    d9c1acf1 da7efaf6 db709dbd dd5ace9e df690b4b df7da510 dfc8d0dd e0b0f950 e1b2becb e367241a
    e3aaeebf e440a8e6 e7cb502e e852afc3 e90eefe7 e94d1a2b e96138ac e9cde33d ea15e2b8 edc3bf43
    ee417278 ee871105 eeab538e ef4c3e8f efad137e     f0299013 f268f72a f2e10140 f2f5955e f354e022
    f393752a f3beda8a f4161ac7 f4a2dad4 f64d9de8 f7b0934c f7ec5c78 f86c3002 f8ad0148 f8fd8e84
    f9a2f04d fa2b7cb7 fad8fb8f fafce99e fb0a00d5 fb9ee1dc fbc4c929 fc31ac92 fea50d5e
    """,
)
