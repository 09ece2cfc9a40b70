"""Contract suites for those who write a guest, a channel, a monitor or a policy of their own, as pytest runs them.

Each is a class of tests. Subclass it in a test module, say how to make the thing, and pytest runs every test on it. The
package's own guests and channels keep the same contracts. pytest is needed here and nowhere else in the package, and is
no dependency of it: whoever tests has it.
"""

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in ("channel", "guest", "monitor", "policy")))
