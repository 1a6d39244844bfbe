/^x-.*@odd\.example$/ smtp:[odd.example]
/^d-.*@odd\.example$/ DUNNO
if /@if.example$/
!/^a/ smtp:[nota.example]
endif
