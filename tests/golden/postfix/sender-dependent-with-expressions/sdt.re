/^x-.*@odd\.example$/ smtp:[odd.example]
