#include "core/status.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace sheaf {
namespace {

Result<int> half(int x) {
  if (x % 2 != 0) return Status(StatusCode::kInvalidArgument, "odd");
  return x / 2;
}
Result<int> quarter(int x) {
  SHEAF_ASSIGN(int h, half(x));
  SHEAF_ASSIGN(int q, half(h));
  return q;
}
Status check_even(int x) {
  SHEAF_TRY(half(x).status());
  return Status::ok();
}

TEST(StatusTest, OkIsOneWordAndHasNoMessage) {
  static_assert(sizeof(Status) <= 2 * sizeof(void*));
  EXPECT_TRUE(Status::ok().is_ok());
  EXPECT_EQ(Status::ok().message(), "");
  EXPECT_EQ(Status(StatusCode::kOk, "ignored").message(), "");
}

TEST(StatusTest, ErrnoBecomesTheCodeByRemedy) {
  EXPECT_EQ(Status::from_errno("x", ENOSPC).code(), StatusCode::kOutOfMemory);
  EXPECT_EQ(Status::from_errno("x", EPIPE).code(), StatusCode::kDisconnected);
  EXPECT_EQ(Status::from_errno("x", ENOENT).code(), StatusCode::kNotFound);
  EXPECT_EQ(Status::from_errno("open", ENOENT).to_string(),
            "kNotFound: open: No such file or directory");
}

TEST(StatusTest, MacrosPassTheFirstErrorOn) {
  EXPECT_EQ(*quarter(12), 3);
  EXPECT_EQ(quarter(6).status().message(), "odd");
  EXPECT_FALSE(check_even(3));
  EXPECT_TRUE(check_even(4));
}

TEST(StatusTest, EveryCodeHasAName) {
  for (int code = 0; code <= static_cast<int>(StatusCode::kPermissionDenied); ++code) {
    EXPECT_NE(to_string(static_cast<StatusCode>(code)), "kUnknown") << code;
  }
}

TEST(StatusDeathTest, OkResultWithoutAValueStops) {
  EXPECT_DEATH({ Result<int> r(Status::ok()); }, "");
}

TEST(StatusDeathTest, BrokenInvariantNamesItself) {
  EXPECT_DEATH(SHEAF_CHECK(1 + 1 == 3), "check failed at .*status_test.cc:[0-9]+: 1 \\+ 1 == 3");
}

}  // namespace
}  // namespace sheaf
